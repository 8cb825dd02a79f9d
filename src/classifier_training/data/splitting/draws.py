"""The draw itself: stratified and seeded, picture by picture or group by group."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.types import TRAIN
from classifier_training.data.splitting.allocate import allocate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.data.index import Sample

log = logging.getLogger(__name__)


def draw(samples: Sequence[Sample], fractions: dict[str, float], *, seed: int) -> list[str]:
    """Draw a split for each sample; a picture's rows and a group's samples take the same.

    Args:
        samples: to draw from.
        fractions: share of each held-out split.
        seed: the draw.

    Raises:
        UserError: when all samples are in one group.
    """
    if not any(sample.group for sample in samples):
        return _draw_pictures(samples, fractions, seed=seed)
    labels, classes, units = _number(samples)
    num_units = int(units.max()) + 1
    if num_units == 1:
        raise UserError(
            f"all {len(samples)} images are in one group, {samples[0].group!r}",
            f"a group for each split: {TRAIN}, {', '.join(fractions)}",
            "another data.group, or none",
        )
    parts = (TRAIN, *fractions)
    shares = np.array([1 - sum(fractions.values()), *fractions.values()])
    drawn = allocate(classes, units, shares, seed=seed)
    _report_missing(labels, classes, units, drawn, parts)
    return [parts[part] for part in drawn]


def draw_folds(samples: Sequence[Sample], num_folds: int, *, seed: int) -> list[int]:
    """Number the fold of each sample; -1 for those that every fold trains on.

    A class in a single group, or with a single picture, is trained on in every fold, so that all folds know the same
    classes.

    Raises:
        UserError: when there are fewer groups or pictures than folds.
    """
    labels, classes, units = _number(samples)
    pairs = np.unique(np.stack([classes, units], axis=1), axis=0)
    alone = np.flatnonzero(np.bincount(pairs[:, 0]) == 1)
    fixed = np.isin(units, pairs[np.isin(pairs[:, 0], alone), 1])
    left = len(np.unique(units[~fixed]))
    what = "groups" if any(sample.group for sample in samples) else "images"
    if left < num_folds:
        raise UserError(
            f"data.num_folds={num_folds} with {left} {what} to divide",
            f"at least as many {what} as folds, of classes that have two or more",
            f"data.num_folds={left}" if left > 1 else "fewer folds, or another data.group",
        )
    if len(alone):
        log.warning("all %s of these classes are one, so every fold trains on it and none is validated on it: %s",
                    what, enumerate_words(repr(labels[number]) for number in alone))  # fmt: skip
    folds = np.full(len(samples), -1, dtype=np.int64)
    shares = np.full(num_folds, 1 / num_folds)
    folds[~fixed] = allocate(_compact(classes[~fixed]), _compact(units[~fixed]), shares, seed=seed)
    return [int(fold) for fold in folds]


def _number(samples: Sequence[Sample]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The class names, and numbers of each sample's class and unit; pictures without a group are units of their own."""
    labels = sorted({sample.label for sample in samples})
    numbers = {label: number for number, label in enumerate(labels)}
    groups = dict[str, str]()
    for sample in samples:
        groups[sample.path] = groups.get(sample.path) or sample.group
    # Rows of one picture may name different groups; the first that is named holds.
    units: dict[tuple[str, str], int] = {}
    found = [
        units.setdefault(("group", groups[sample.path]) if groups[sample.path] else ("path", sample.path), len(units))
        for sample in samples
    ]
    return labels, np.array([numbers[sample.label] for sample in samples]), np.array(found, dtype=np.int64)


def _compact(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def _report_missing(
    labels: Sequence[str],
    classes: NDArray[np.int64],
    units: NDArray[np.int64],
    drawn: NDArray[np.int64],
    parts: Sequence[str],
) -> None:
    """Say which classes could not be in every split, and why."""
    pairs = np.unique(np.stack([classes, units], axis=1), axis=0)
    num_units = np.bincount(pairs[:, 0])
    served = np.zeros((len(labels), len(parts)), dtype=bool)
    served[classes, drawn] = True
    by_lack: dict[tuple[str, int], list[str]] = defaultdict(list)
    for number, label in enumerate(labels):
        lacking = [part for place, part in enumerate(parts) if not served[number, place]]
        if lacking:
            by_lack[", ".join(lacking), int(num_units[number])].append(repr(label))
    for (missing, number), names in by_lack.items():
        why = "its images are all in one group" if number == 1 else f"its images are in {number} groups"
        log.warning("%s: no image for %s, for %s", enumerate_words(names), missing, why)


def _draw_pictures(samples: Sequence[Sample], fractions: dict[str, float], *, seed: int) -> list[str]:
    """Draw a split for each picture; all its rows take it, under the rarest of its labels."""
    counts = Counter(sample.label for sample in samples)
    labels: dict[str, str] = {}
    for sample in samples:
        label = labels.setdefault(sample.path, sample.label)
        labels[sample.path] = min(label, sample.label, key=lambda name: (counts[name], name))
    drawn = dict(zip(labels, stratified_split(list(labels.values()), fractions, seed=seed), strict=True))
    return [drawn[sample.path] for sample in samples]


def stratified_split(labels: Sequence[str], fractions: dict[str, float], *, seed: int) -> list[str]:
    """Draw each held-out split from every class in its proportion, and at least one sample where the class has enough.

    The training split always keeps at least one sample of every class, which scikit-learn's stratified splitters
    refuse to do for classes of one or two. A class's draw depends on its name and samples alone, so that adding a class
    moves nothing elsewhere.

    Args:
        labels: class name of each sample [N].
        fractions: share of each held-out split.
        seed: the draw.

    Returns:
        The split of each sample [N].
    """
    names = np.asarray(labels, dtype=object)
    splits = np.full(len(names), TRAIN, dtype=object)
    for label in sorted(set(labels)):
        rows: NDArray[np.int64] = np.flatnonzero(names == label)
        order = np.random.default_rng([seed, *label.encode()]).permutation(rows)
        start = 0
        for split, fraction in fractions.items():
            wanted = max(round(len(rows) * fraction), 1)
            count = max(min(wanted, len(rows) - start - 1), 0)
            splits[order[start : start + count]] = split
            start += count
    return [str(split) for split in splits]
