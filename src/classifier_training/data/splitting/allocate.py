"""Stratified random splits of groups or single images, where each split or fold gets its share of every class.

scikit-learn's StratifiedGroupKFold makes folds of equal size only, and may leave a rare class without a training image.
Here the parts may differ in size, and the first part comes first where a class has few units.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.columns import Categories, different, number_by_first
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.labels import sort_labels
from classifier_training.core.types import TRAIN
from classifier_training.data.samples import Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    from collections.abc import Iterable, Sequence

    from classifier_training.data.samples import Sample


def allocate(classes: Integers, units: Integers, shares: NDArray[np.float64], *, seed: int) -> Integers:
    """Assign rows to parts, all rows of a unit to the same one.

    Large units come first, each goes to the part that it brings closest to its shares of the classes; single rows fill
    what is left. A class with fewer units than parts is in the first parts, a class with enough units is in all.

    Args:
        classes: of each row [N], numbers from 0 without a gap.
        units: of each row [N], numbers from 0 without a gap.
        shares: of each part [S], which sum to 1; the first part gets every class.
        seed: of the random order of units of equal size.

    Returns:
        The part of each row [N].
    """
    allocation = _Allocation(classes, units, shares)
    order = np.random.default_rng(seed).permutation(allocation.num_units)
    sizes = np.bincount(units)
    for unit in order[np.argsort(-sizes[order], kind="stable")]:
        if sizes[unit] > 1:
            allocation.move(int(unit), allocation.cheapest(int(unit)))
    allocation.fill(order[sizes[order] == 1])
    allocation.serve_rare()
    return np.asarray(allocation.parts[units], dtype=np.int64)


class _Allocation:
    """State of an allocation: the part of each unit, and the number of rows of each class in each part."""

    def __init__(self, classes: Integers, units: Integers, shares: NDArray[np.float64]) -> None:
        self.num_units = int(units.max()) + 1
        by_unit = np.argsort(units, kind="stable")
        self._classes, self._units = classes[by_unit], units[by_unit]
        self._begins = np.searchsorted(self._units, np.arange(self.num_units + 1))
        self._shares = shares
        self._totals = np.bincount(classes)
        self._targets = shares[:, None] * self._totals
        self.parts = np.full(self.num_units, -1, dtype=np.int64)
        self.have = np.zeros(self._targets.shape, dtype=np.int64)

    def counts(self, unit: int) -> tuple[Integers, Integers]:
        """The classes of a unit, and its rows of each."""
        return np.unique(self._classes[self._begins[unit] : self._begins[unit + 1]], return_counts=True)

    def move(self, unit: int, part: int) -> None:
        """Give a unit to a part, taking it from the one that has it."""
        labels, counts = self.counts(unit)
        if self.parts[unit] >= 0:
            self.have[self.parts[unit], labels] -= counts
        self.have[part, labels] += counts
        self.parts[unit] = part

    def cheapest(self, unit: int) -> int:
        """The part whose class counts are closest to its shares with the unit added."""
        labels, counts = self.counts(unit)
        gap = self.have[:, labels] - self._targets[:, labels]
        # A part's squared distance with the unit, minus that without it, relative to the sizes of part and class.
        change = (2 * gap + counts) * counts / self._totals[labels] ** 2 / self._shares[:, None]
        return int(change.sum(axis=1).argmin())

    def fill(self, singles: Integers) -> None:
        """Assign units of a single row, class by class, to the parts that lack them."""
        labels = self._classes[self._begins[singles]]
        for label in np.unique(labels):
            own = singles[labels == label]
            lacking = np.maximum(self._targets[:, label] - self.have[:, label], 0)
            exact = len(own) * (lacking / lacking.sum() if lacking.any() else self._shares)
            counts = np.floor(exact).astype(np.int64)
            counts[np.argsort(counts - exact, kind="stable")[: len(own) - counts.sum()]] += 1
            self.parts[own] = np.repeat(np.arange(len(counts)), counts)
            self.have[:, label] += counts

    def serve_rare(self) -> None:
        """Move units until every class is in the first part, and in as many others as it has units for."""
        pairs = _pairs(self._classes, self._units)
        own = np.split(pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(1, len(self._totals))))
        for label in sorted(range(len(own)), key=lambda number: len(own[number])):
            for part in range(min(len(self._shares), len(own[label]))):
                if not self.have[part, label]:
                    unit = self._spare(own[label], label, part)
                    if unit is not None:
                        self.move(unit, part)

    def _spare(self, units: Integers, label: int, part: int) -> int | None:
        """The smallest unit of a class that may move to a part without leaving another part without a class."""
        found: list[tuple[int, int]] = []
        for unit in units.tolist():
            labels, counts = self.counts(unit)
            emptied = self.have[self.parts[unit], labels] == counts
            # A later part may lose the class itself, because earlier parts come first.
            allowed = not emptied[(labels != label) | (self.parts[unit] < part)].any()
            if allowed or part == 0:
                found.append((int(counts.sum()) if allowed else self.num_units + len(self._units), unit))
        return min(found)[1] if found else None


log = logging.getLogger(__name__)


def random_split(samples: Iterable[Sample], fractions: dict[str, float], *, seed: int) -> Categories[str]:
    """Return a stratified random split of samples; rows of one image and samples of one group stay together.

    Args:
        samples: to split.
        fractions: share of each held-out split.
        seed: of the random split.

    Raises:
        UserError: when all samples are in one group.
    """
    table = Samples.of(samples)
    if table.groups.where("").all():
        return _split_images(table, fractions, seed=seed)
    labels, classes, units = _number(table)
    num_units = int(units.max()) + 1
    if num_units == 1:
        raise UserError(
            f"all {len(table)} images are in one group, {table.groups[0]!r}",
            f"a group for each split: {TRAIN}, {', '.join(fractions)}",
            "another data.group, or none",
        )
    parts = (TRAIN, *fractions)
    shares = np.array([1 - sum(fractions.values()), *fractions.values()])
    assigned = allocate(classes, units, shares, seed=seed)
    _report_missing(labels, classes, units, assigned, parts)
    return Categories(assigned, parts)


def random_folds(samples: Iterable[Sample], num_folds: int, *, seed: int) -> Integers:
    """Return the fold of each sample, int64 [N]; -1 for those that every fold trains on.

    A class in a single group, or with a single image, is trained on in every fold, so that all folds have the same
    classes.

    Raises:
        UserError: when there are fewer groups or images than folds.
    """
    table = Samples.of(samples)
    labels, classes, units = _number(table)
    pairs = _pairs(classes, units)
    alone = np.flatnonzero(np.bincount(pairs[:, 0]) == 1)
    is_fixed = np.zeros(int(units.max(initial=0)) + 1, bool)
    is_fixed[pairs[np.isin(pairs[:, 0], alone), 1]] = True
    fixed = is_fixed[units]
    left = len(different(units[~fixed]))
    what = "images" if table.groups.where("").all() else "groups"
    if left < num_folds:
        raise UserError(
            f"data.num_folds={num_folds} with {left} {what} to divide",
            f"at least as many {what} as folds, of classes that have two or more",
            f"data.num_folds={left}" if left > 1 else "fewer folds, or another data.group",
        )
    if len(alone):
        log.warning("these classes have a single %s, which every fold trains on and none validates on: %s",
                    what.removesuffix("s"), enumerate_words(repr(labels[number]) for number in alone))  # fmt: skip
    folds = np.full(len(table), -1, dtype=np.int64)
    shares = np.full(num_folds, 1 / num_folds)
    folds[~fixed] = allocate(_compact(classes[~fixed]), _compact(units[~fixed]), shares, seed=seed)
    return folds


def _number(table: Samples) -> tuple[tuple[str, ...], Integers, Integers]:
    """The class names, and numbers of each sample's class and unit; images without a group are units of their own."""
    labels = sort_labels(table.labels.counts())
    images, first = table.paths.numbers()
    # Rows of one image may name different groups; the first one counts.
    grouped = np.flatnonzero(~table.groups.where(""))[::-1]
    groups = np.full(len(first), -1, dtype=np.int64)
    groups[images[grouped]] = table.groups.codes[grouped]
    own = groups[images]
    units, _ = number_by_first(np.where(own < 0, images + len(table.groups.values), own))
    return labels, table.labels.places_in(labels), units


def _pairs(classes: Integers, units: Integers) -> Integers:
    """The different pairs of class and unit, sorted, int64 [P, 2]."""
    stride = int(units.max(initial=0)) + 1
    found = different(classes * stride + units)
    return np.stack([found // stride, found % stride], axis=1)


def _compact(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    is_used = np.zeros(int(numbers.max(initial=-1)) + 1, np.int64)
    is_used[numbers] = 1
    return (np.cumsum(is_used) - 1)[numbers]


def _report_missing(
    labels: Sequence[str],
    classes: NDArray[np.int64],
    units: NDArray[np.int64],
    assigned: NDArray[np.int64],
    parts: Sequence[str],
) -> None:
    """Log which classes are not in every split, and why."""
    num_units = np.bincount(_pairs(classes, units)[:, 0])
    present = np.zeros((len(labels), len(parts)), dtype=bool)
    present[classes, assigned] = True
    by_lack: dict[tuple[str, int], list[str]] = defaultdict(list)
    for number, label in enumerate(labels):
        lacking = [part for place, part in enumerate(parts) if not present[number, place]]
        if lacking:
            by_lack[", ".join(lacking), int(num_units[number])].append(repr(label))
    for (missing, number), names in by_lack.items():
        why = "its images are all in one group" if number == 1 else f"its images are in {number} groups"
        log.warning("%s: no image for %s, for %s", enumerate_words(names), missing, why)


def _split_images(table: Samples, fractions: dict[str, float], *, seed: int) -> Categories[str]:
    """Split images, stratified by the rarest label of each; all rows of an image take its split."""
    images, first = table.paths.numbers()
    counts = table.labels.counts()
    names = sorted(counts, key=lambda name: (counts[name], name))
    rarest = np.full(len(first), len(names), dtype=np.int64)
    np.minimum.at(rarest, images, table.labels.places_in(names))
    return stratified_split(Categories(rarest, tuple(names)), fractions, seed=seed)[images]


def stratified_split(labels: Iterable[str], fractions: dict[str, float], *, seed: int) -> Categories[str]:
    """Split samples at random; a held-out split gets its fraction of every class, at least one sample if possible.

    The training split keeps at least one sample of every class; scikit-learn's stratified splitters refuse classes of
    one or two samples. The split of a class depends on its name and samples only, so adding a class moves nothing else.

    Args:
        labels: class name of each sample [N].
        fractions: share of each held-out split.
        seed: of the random split.

    Returns:
        The split of each sample [N].
    """
    column = Categories.of(labels)
    names = sort_labels(column.counts())
    numbers = column.places_in(names)
    splits = np.zeros(len(numbers), dtype=np.int64)
    by_class = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=len(names))).tolist()
    for label, begin, end in zip(names, [0, *ends], ends, strict=False):
        rows = by_class[begin:end]
        order = np.random.default_rng([seed, *label.encode()]).permutation(rows)
        start = 0
        for place, fraction in enumerate(fractions.values(), start=1):
            wanted = max(round(len(rows) * fraction), 1)
            count = max(min(wanted, len(rows) - start - 1), 0)
            splits[order[start : start + count]] = place
            start += count
    return Categories(splits, (TRAIN, *fractions))
