"""A small model of two classes that is a formula, its images, and what it predicted: for tests of what watches it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier_training.core.types import softmax
from classifier_training.monitoring.reference import Reference, measure_responses
from classifier_training.monitoring.sketch import Sketch
from classifier_training.monitoring.statistics import Scale, image_statistics, values_of

NAMES = ("blue", "red")
SIDE = 24


class Given(NamedTuple):
    """Images, uint8 [N, SIDE, SIDE, 3], and their classes [N]."""

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]


def make_images(number: int, *, seed: int, red: float = 0.5) -> Given:
    """Textured images that are more red or more blue, with a share of red ones."""
    generator = np.random.default_rng(seed)
    targets = (generator.random(number) < red).astype(np.int64)
    texture = generator.normal(0, 0.06, (number, SIDE, SIDE, 1))
    tint = generator.normal(0.12, 0.08, number) * np.where(targets == 1, 1, -1)
    grey = generator.normal(0.45, 0.06, number)[:, None, None, None]
    colour = np.stack([tint, np.zeros(number), -tint], axis=1)[:, None, None]
    noise = generator.normal(0, 0.01, (number, SIDE, SIDE, 3))
    levels = np.clip(grey + texture + colour + noise, 0, 1) * 255
    return Given(np.rint(levels).astype(np.uint8), targets)


def answer(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities from the tint, the less of it and the more of chance the blurrier it is; novelty from the green."""
    values = pixels.astype(np.float64) / 255
    means = values.mean(axis=(1, 2))
    sharp = np.minimum(1, np.abs(np.diff(values.mean(axis=3), axis=2)).mean(axis=(1, 2)) / 0.06)
    tint = (means[:, 0] - means[:, 2]) * 25 * sharp + 6 * (1 - sharp) * np.sin(1e4 * means[:, 2])
    novelty = means[:, 1] - (means[:, 0] + means[:, 2]) / 2 + 0.02 * np.sin(1000 * means[:, 0])
    return softmax(np.stack([-tint / 2, tint / 2], axis=1).astype(np.float32)), novelty.astype(np.float32)


def make_reference(*, number: int = 400, seed: int = 0) -> Reference:
    """The reference sketch of the model."""
    given = make_images(number, seed=seed)
    probabilities, novelty = answer(given.pixels)
    threshold = float(np.quantile(novelty, 0.95))
    scale = Scale(float(np.median(novelty)), threshold)
    images = zip(given.pixels[:200], given.targets[:200].tolist(), strict=True)
    return Reference.fit(
        NAMES,
        image_statistics(given.pixels),
        probabilities,
        novelty,
        threshold,
        given.targets,
        measure_responses(images, lambda pixels: pixels, answer, scale),
    )


def sketch_of(reference: Reference, pixels: NDArray[np.uint8]) -> Sketch:
    """The sketch of the model's predictions."""
    probabilities, novelty = answer(pixels)
    sketch = Sketch("", NAMES)
    values = values_of(image_statistics(pixels), probabilities, novelty, reference.novelty)
    sketch.add(probabilities, values, probabilities.max(axis=1) < 0.6)
    return sketch
