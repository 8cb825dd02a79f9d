"""Settings that depend on the images: the white of images of more than 8 bits, and data.image_size=auto.

Cameras and scanners of 12 bits use only a part of the 16-bit range. Which value is white decides what the network sees,
and such a file often does not state it. A single image cannot show it, because a dark one looks the same, so images of
the whole data set are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from classifier_training.core.errors import UserError, plural
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import FULL_RANGE, read_peak
from classifier_training.core.types import spread_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MAX_LOOKED = 256
"""Most images of a kind that are decoded before training, spread over the data set."""

SETTING = "transforms.max_value"


class DepthProblem(NamedTuple):
    """A problem of images of more than 8 bits, and its remedy."""

    title: str
    words: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.title}: {self.words}; {self.remedy}"


@dataclass(frozen=True)
class Depth:
    """The images of more than 8 bits.

    Args:
        lacking: paths of grey images whose file does not state which value is white.
        cut: paths of colour images, of which the upper 8 bits are read.
    """

    lacking: Sequence[str] = ()
    cut: Sequence[str] = ()


def check_depth(depth: Depth, root: Path, *, max_value: int) -> list[str]:
    """Check some images of more than 8 bits for a wrong white.

    Args:
        depth: of the data set.
        root: folder that the paths are relative to.
        max_value: white as the user set it.

    Returns:
        One line for each problem.

    Raises:
        UserError: when `max_value` is set and no image uses it.
    """
    if max_value != FULL_RANGE and not depth.lacking:
        raise UserError(
            f"{SETTING}={max_value} has no effect: no image has grey samples of more than 8 bits "
            "whose file does not state which value is white",
            f"no {SETTING} for such data",
            f"leave {SETTING} out",
        )
    problems = []
    if (peak := _peak(root, depth.lacking)) is not None:
        problems.append(dark_samples(len(depth.lacking), peak, max_value=max_value))
    if (peak := _peak(root, depth.cut)) is not None:
        problems.append(dark_colours(len(depth.cut), peak))
    return [str(one) for one in problems if one is not None]


def dark_samples(number: int, peak: int, *, max_value: int = FULL_RANGE) -> DepthProblem | None:
    """Return the problem of grey images that come out too dark or too bright; None if there is none.

    Args:
        number: of the images.
        peak: the largest sample that was found among them.
        max_value: that they are read with.
    """
    title = f"{plural(number, 'grey image')} of more than 8 bits that do not state which value is white"
    if peak > max_value:
        return DepthProblem(
            title, f"samples of up to {peak:,} are cut off at {max_value:,}", f"{SETTING}={fitting_max(peak)}"
        )
    fitting = fitting_max(peak)
    if fitting >= max_value:
        return None
    return DepthProblem(
        title,
        f"the largest sample found is {peak:,} of {max_value:,}, so they look dark to the network",
        f"{SETTING}={fitting} if they have {fitting.bit_length()} bits",
    )


def dark_colours(number: int, peak: int) -> DepthProblem | None:
    """Return the problem of 16-bit colours that come out too dark; `peak` is the largest upper byte found."""
    if peak > FULL_RANGE >> 9:
        return None
    return DepthProblem(
        f"{plural(number, 'colour image')} of 16 bits, of which the upper 8 are read",
        f"the largest of these is {peak} of 255, so they look dark to the network",
        "save them with 8 bits a channel",
    )


def fitting_max(peak: int) -> int:
    """Return the largest value that has as many bits, from 8 on."""
    return max(255, (1 << peak.bit_length()) - 1)


def _peak(root: Path, paths: Sequence[str]) -> int | None:
    """Return the largest sample of some of the images, None where none can be read."""
    if not paths:
        return None
    return max(_peaks(root / paths[row] for row in spread_rows(len(paths), MAX_LOOKED)), default=None)


def _peaks(paths: Iterable[Path]) -> Iterable[int]:
    for path in paths:
        try:
            yield read_peak(path)
        except UnreadableImageError:
            continue  # reported when its pixels are needed


STEP = 32
"""Sizes are multiples of this number, by which most networks shrink an image."""

TRAINED_FACTOR = 4
"""For trained weights, small images are enlarged to this many times their short side: see docs/benchmarks.md."""


@dataclass(frozen=True)
class ChosenSize:
    """The side of the network's input, and the reason for it.

    Args:
        side: in pixels.
        reason: for the log.
    """

    side: int
    reason: str

    def __str__(self) -> str:
        return f"{self.side} px ({self.reason})"


def choose_image_size(
    own: int, sizes: NDArray[np.integer[Any]], *, is_trained: bool, takes: Callable[[int], bool]
) -> ChosenSize:
    """Choose the side of the network's input for the images of a training split.

    The choice depends on the median of the images' short sides. If it reaches the network's own size, that size is
    used. Smaller images are enlarged only as far as it helps: with random weights, to the median rounded up to a
    multiple of 32; with trained weights, whose filters expect objects as large as in larger images, to four times the
    median. A side that the network does not accept is raised in steps of 32, at most to the network's own size.

    Args:
        own: the network's own size in pixels.
        sizes: width and height of each image of the training split [N, 2].
        is_trained: whether the network starts from trained weights.
        takes: whether the network can be trained at a side, in pixels.
    """
    if not len(sizes):
        return ChosenSize(own, "the network's own")
    short = float(np.median(sizes.min(axis=1)))
    images = f"images are {short:g} px at their short side"
    wanted = max(STEP, _round_up((TRAINED_FACTOR if is_trained else 1) * short))
    if wanted >= own:
        return ChosenSize(own, f"the network's own; {images}")
    weights = "trained" if is_trained else "random"
    for side in range(wanted, own, STEP):
        if takes(side):
            reason = (
                f"{images}; the network's own {own} px would enlarge them {own / short:.1f} times; {weights} weights"
            )
            return ChosenSize(side, reason)
    return ChosenSize(own, f"the network's own; {images}, and it accepts no smaller size")


def _round_up(side: float) -> int:
    return int(np.ceil(side / STEP)) * STEP
