"""The side of the network's input where the settings leave it open: data.image_size=auto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

STEP = 32
"""Sizes are multiples of it: as far as most networks shrink an image."""

TRAINED_FACTOR = 4
"""For trained weights, small images are enlarged to this many times their short side: see docs/benchmarks.md."""


@dataclass(frozen=True)
class ChosenSize:
    """The side of the network's input, and why.

    Args:
        side: in pixels.
        reason: in words.
    """

    side: int
    reason: str

    def __str__(self) -> str:
        return f"{self.side} px ({self.reason})"


def choose_image_size(
    own: int, sizes: NDArray[np.int64], *, is_trained: bool, takes: Callable[[int], bool]
) -> ChosenSize:
    """Choose the side of the network's input for the images of a training split.

    What counts is the median of the images' short sides. From the network's own size on, that size is taken. Smaller
    images are not enlarged further than pays: from random weights the median is rounded up to a multiple of 32; from
    trained weights, whose filters know objects of the size that they have in larger images, four times the median is,
    at most the network's own size. A side that the network does not take is raised in steps of 32, at most to its own.

    Args:
        own: the network's own size in pixels.
        sizes: width and height of each image of the training split, int64 [N, 2].
        is_trained: whether the network starts from trained weights.
        takes: whether the network can be trained at a side of so many pixels.
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
    return ChosenSize(own, f"the network's own; {images}, and it takes no smaller size")


def _round_up(side: float) -> int:
    return int(np.ceil(side / STEP)) * STEP
