"""The embedded screens: seven classes of what a lecture room's recorder sees, long-tailed, rendered once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.settings import Resume
from classifier_training.data.formats.image_folder import read_image_folder
from classifier_training.data.formats.source import DataSource
from classifier_training.data.sample_sets.made import in_parallel, made_folder
from classifier_training.data.walk import Walker

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.data.index import SampleIndex

VERSION = "slides-1"
"""Of the drawings; another number makes all images anew."""

NUM_CLASSES = 7
MOST, FEWEST = 2530, 4
"""Images of the most frequent class at full size, and of the rarest at any."""

FULL_SIZE = 3840
IMAGES_PER_TALK = 20


@register(group="data", name="slides")
@dataclass(frozen=True, kw_only=True)
class Slides(DataSource):
    """Rendered screens of seven classes (slides, an editor, a desktop, no signal, …), 1920 x 1080, with a long tail.

    The images of one talk, which look alike, are in one folder: data.group=parent keeps them together.

    Args:
        num_images: images to render; 3840 have 2,530 of the most frequent class and 4 of the rarest.
        width: in pixels; the height follows.
        seed: of the drawing.
    """

    num_images: Annotated[int, Field(ge=60, le=FULL_SIZE), Resume.FIXED] = 200
    width: Annotated[int, Field(ge=64, le=1920), Resume.FIXED] = 1920
    seed: Annotated[int, Field(ge=0, lt=2**31), Resume.FIXED] = 0

    def read(self) -> SampleIndex:
        """List the images, rendering them into the cache folder the first time."""
        name = f"{VERSION}-{self.num_images}-{self.width}-{self.seed}"
        return read_image_folder(Walker(made_folder(name, self._render)))

    def _render(self, folder: Path) -> dict[str, Any]:
        from classifier_training.data.sample_sets.rendered.screens import KINDS, Screen, write_screen

        counts = tail_counts(self.num_images)
        num_talks = max(self.num_images // IMAGES_PER_TALK, FEWEST)
        jobs = [
            Screen(folder / kind / f"talk_{talk:03d}" / f"{number:04d}.png", kind, talk, number, self.seed, self.width)
            for kind, count in zip(KINDS, counts, strict=True)
            for number in range(count)
            for talk in [number % num_talks]
        ]
        in_parallel(write_screen, jobs)
        return {"num_images": len(jobs), "counts": dict(zip(KINDS, counts, strict=True))}


def tail_counts(num_images: int) -> list[int]:
    """Images of each class, most frequent first: a geometric tail down to FEWEST."""
    steps = np.arange(NUM_CLASSES) / (NUM_CLASSES - 1)

    def counts(most: float) -> list[int]:
        return [round(count) for count in most * (FEWEST / most) ** steps]

    low, high = float(FEWEST), float(MOST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle)) < num_images else (low, middle)
    found = counts(high)
    # Rounding may miss the total by a few, which the most frequent class can bear.
    return [min(found[0] + num_images - sum(found), MOST), *found[1:]]
