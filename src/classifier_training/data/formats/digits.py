"""The embedded sample: scikit-learn's 1,797 handwritten digits, as the image folder a user would have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.register import register
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.formats.image_folder import read_image_folder
from classifier_training.data.formats.source import DataSource
from classifier_training.data.sample_sets.made import made_folder
from classifier_training.data.walk import Walker

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.data.index import SampleIndex

VERSION = "digits-1"
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
    """Folder of the sample's images; made when it is not there yet, whole or not at all."""
    return made_folder(VERSION, _write_images)


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
