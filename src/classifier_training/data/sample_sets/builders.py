"""data=digits, data=slides and data=jerseys: sample data sets, written to the cache folder the first time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.run_dir import write_text
from classifier_training.core.settings import Resume
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.cache_folder import cached_folder, map_in_processes
from classifier_training.data.formats.image_folder import read_image_folder
from classifier_training.data.formats.jsonl import read_jsonl
from classifier_training.data.formats.source import DataSource
from classifier_training.data.walk import Walker

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.data.index import SampleIndex
    from classifier_training.data.sample_sets.jerseys import Jersey

DIGITS_VERSION = "digits-1"
IMBALANCE_RATIO = 20.0
"""Training images of the most frequent digit over those of the rarest."""


@register(group="data", name="digits")
@dataclass(frozen=True, kw_only=True)
class Digits(DataSource):
    """1,797 real handwritten digits of 8 x 8 pixels; the training split is cut to a long tail of about 20:1."""

    def read(self) -> SampleIndex:
        """List the images, writing them to the cache folder the first time."""
        return read_image_folder(Walker(digits_folder()))


def digits_folder() -> Path:
    """Folder of the sample's images; written the first time, completely or not at all."""
    return cached_folder(DIGITS_VERSION, _write_images)


def split_digits(targets: NDArray[np.int64]) -> NDArray[np.str_]:
    """Assign each digit to train, val, test or, for the cut part of the tail, to the empty string.

    A fifth of every class each goes to test and validation, whole; from the rest, class k keeps a share that falls
    geometrically from 1 (digit 0) to 1 / IMBALANCE_RATIO (digit 9).
    """
    splits = np.full(len(targets), "", dtype="<U5")
    num_classes = int(targets.max()) + 1
    for label in range(num_classes):
        rows = np.random.default_rng([0, label]).permutation(np.flatnonzero(targets == label))
        held_out = len(rows) // 5
        rest = rows[2 * held_out :]
        kept = round(len(rest) * IMBALANCE_RATIO ** (-label / (num_classes - 1)))
        splits[rows[:held_out]] = TEST
        splits[rows[held_out : 2 * held_out]] = VAL
        splits[rest[:kept]] = TRAIN
    return splits


def _write_images(folder: Path) -> dict[str, Any]:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    targets = digits.target.astype(np.int64)
    for number, (pixels, label, split) in enumerate(zip(digits.images, targets, split_digits(targets), strict=True)):
        if split:
            path = folder / str(split) / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)).save(path)
    return {"num_images": int((split_digits(targets) != "").sum())}


SLIDES_VERSION = "slides-1"
"""Of the rendering; another version renders all images again."""

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
        seed: of the rendering.
    """

    num_images: Annotated[int, Field(ge=60, le=FULL_SIZE), Resume.FIXED] = 200
    width: Annotated[int, Field(ge=64, le=1920), Resume.FIXED] = 1920
    seed: Annotated[int, Field(ge=0, lt=2**31), Resume.FIXED] = 0

    def read(self) -> SampleIndex:
        """List the images, rendering them into the cache folder the first time."""
        name = f"{SLIDES_VERSION}-{self.num_images}-{self.width}-{self.seed}"
        return read_image_folder(Walker(cached_folder(name, self._render)))

    def _render(self, folder: Path) -> dict[str, Any]:
        from classifier_training.data.sample_sets.screens import KINDS, Screen, write_screen

        counts = tail_counts(self.num_images)
        num_talks = max(self.num_images // IMAGES_PER_TALK, FEWEST)
        jobs = [
            Screen(folder / kind / f"talk_{talk:03d}" / f"{number:04d}.png", kind, talk, number, self.seed, self.width)
            for kind, count in zip(KINDS, counts, strict=True)
            for number in range(count)
            for talk in [number % num_talks]
        ]
        map_in_processes(write_screen, jobs)
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
    # The most frequent class absorbs what rounding leaves.
    return [min(found[0] + num_images - sum(found), MOST), *found[1:]]


JERSEYS_VERSION = "jerseys-1"
"""Of the rendering; another version renders all images again."""

NUMBERS = ("", "1", "4", "7", "8", "9", "10", "11", "17", "23")
SPLITS = ("train", "train", "train", "valid", "test")
"""Splits of the players of each number in turn; all images of a player are in one split."""

QUESTION = "Which number is on the shirt?"


@register(group="data", name="jerseys")
@dataclass(frozen=True, kw_only=True)
class Jerseys(DataSource):
    """Rendered shirt numbers, blurred, tilted and half hidden, in JSONL form; the empty label means no number.

    Every row's metadata has the player, the match and the shot.

    Args:
        num_images: images to render.
        seed: of the rendering.
    """

    num_images: Annotated[int, Field(ge=100, le=100_000), Resume.FIXED] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**31), Resume.FIXED] = 0

    def read(self) -> SampleIndex:
        """List the rows, rendering the images into the cache folder the first time."""
        return read_jsonl(Walker(cached_folder(f"{JERSEYS_VERSION}-{self.num_images}-{self.seed}", self._render)))

    def _render(self, folder: Path) -> dict[str, Any]:
        from classifier_training.data.sample_sets.jerseys import write_jersey

        jobs = plan_jerseys(folder, self.num_images, self.seed)
        map_in_processes(write_jersey, jobs)
        for split in dict.fromkeys(SPLITS):
            rows = [_annotation(job) for job in jobs if job.path.parent.parent.name == split]
            write_text(folder / split / "annotations.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
        return {"num_images": len(jobs)}


def plan_jerseys(folder: Path, num_images: int, seed: int) -> list[Jersey]:
    """Return the images to render: shots of players; low numbers are more frequent."""
    from classifier_training.data.sample_sets.jerseys import Jersey

    rng = np.random.default_rng([seed, 0])
    # The first images are one of each player, so that every split has every number.
    players = [*range(len(NUMBERS) * len(SPLITS))]
    weights = np.repeat(1 / (1 + np.arange(len(NUMBERS))), len(SPLITS))
    players += rng.choice(players, num_images - len(players), p=weights / weights.sum()).tolist()
    shots = dict.fromkeys(players, 0)
    jobs = []
    for place, player in enumerate(players):
        split = SPLITS[player % len(SPLITS)]
        path = folder / split / "images" / f"{place:05d}.png"
        jobs.append(Jersey(path, NUMBERS[player // len(SPLITS)], player, player % 6, shots[player], seed))
        shots[player] += 1
    return jobs


def _annotation(job: Jersey) -> dict[str, Any]:
    metadata = {"player": f"player_{job.player:03d}", "match": f"match_{job.player % 10:02d}", "shot": job.shot}
    return {"image": job.path.name, "prefix": QUESTION, "suffix": job.number, "metadata": metadata}
