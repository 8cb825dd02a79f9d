"""Heads fitted to parts of the stored features, for learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from classifier_training.evaluation.learning_law import summarize_points
from classifier_training.training.linear_head import Features, fit_with_penalty

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.evaluation.learning_law import CurvePoints

SHARES = (0.1, 0.2, 0.35, 0.6, 1.0)
"""Parts of the training images that heads are fitted to, each within the next."""

NUM_DRAWS, FEW_DRAWS, FEW_FROM = 4, 2, 2e9
"""Of each part; and where training images times features times classes are so many: about a third of the work of the
linear probe's own fit, whose penalties are nine."""

MIN_IN_PART = 2
"""Images of each class, however small the part."""

MAX_IMAGES = 50_000
"""For training and for validation; of more, as many are chosen at random."""


def measure_curve(
    train: Features,
    val: Features,
    *,
    images_now: NDArray[np.int64],
    has_bias: bool,
    penalty: float,
    seed: int,
) -> CurvePoints:
    """Fit heads to nested parts of the training features, and count errors on validation.

    Parts are stratified by class, and each class is weighted by the inverse of its count.

    Args:
        train: features to fit.
        val: features to count errors on.
        images_now: training images of each class, of which `train` may hold a part, int64 [K].
        has_bias: whether the head has one.
        penalty: of each head.
        seed: of the parts.
    """
    num_classes, num_features = len(images_now), train.values.shape[1]
    generator = np.random.default_rng(seed)
    train, val = (_chosen(features, MAX_IMAGES, generator) for features in (train, val))
    targets = train.targets.numpy()
    counts = np.bincount(targets, minlength=num_classes)
    sizes = np.stack(
        [np.minimum(np.maximum(np.ceil(counts * share), MIN_IN_PART), counts) for share in SHARES], axis=1
    ).astype(np.int64)
    num_draws = NUM_DRAWS if len(targets) * num_features * num_classes < FEW_FROM else FEW_DRAWS
    ranks = [_ranks(targets, generator) for _ in range(num_draws)]

    def correct(rank: NDArray[np.int64], most: NDArray[np.int64]) -> NDArray[np.bool_]:
        rows = torch.from_numpy(np.flatnonzero(rank < most[targets]))
        part = Features(train.values[rows], train.targets[rows], train.indices[rows])
        weights = torch.from_numpy(1 / np.maximum(most, 1)).float()
        head = fit_with_penalty(
            part, penalty=penalty, class_weights=weights, num_classes=num_classes, has_bias=has_bias
        )
        return (head.logits(val.values).argmax(dim=1) == val.targets).numpy()

    found = []
    for place, share in enumerate(SHARES):
        # All images are the same in every draw.
        draws = ranks if share < 1 else ranks[:1]
        found.append(np.stack([correct(rank, sizes[:, place]) for rank in draws]))
    return summarize_points(images_now, sizes, found, val.targets.numpy())


def _chosen(features: Features, limit: int, generator: np.random.Generator) -> Features:
    """At most so many images, the same share of each class."""
    targets = features.targets.numpy()
    if len(targets) <= limit:
        return features
    most = np.ceil(np.bincount(targets) * limit / len(targets))
    rows = torch.from_numpy(np.flatnonzero(_ranks(targets, generator) < most[targets]))
    return Features(features.values[rows], features.targets[rows], features.indices[rows])


def _ranks(targets: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Place of each image in a random order of its class, from 0."""
    order = generator.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    counts = np.bincount(targets)
    ranks = np.empty(len(targets), np.int64)
    ranks[order] = np.arange(len(targets)) - (np.cumsum(counts) - counts)[targets[order]]
    return ranks
