"""Units (groups, or single pictures) dealt to parts (splits or folds) so that each part has its share of every class.

scikit-learn's StratifiedGroupKFold deals to folds of one size alone, and may leave a rare class without a picture to
train on; here the parts differ in size, and the first is served first where a class has few units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]


def allocate(classes: Integers, units: Integers, shares: NDArray[np.float64], *, seed: int) -> Integers:
    """Deal rows to parts, all rows of a unit to one.

    Large units go first, each to the part that is then nearest to its shares of the classes; single rows fill up what
    is lacking. A class with fewer units than there are parts is in the first parts, one with enough is in all.

    Args:
        classes: of each row [N], numbers from 0 without a gap.
        units: of each row [N], numbers from 0 without a gap.
        shares: of each part [S], which sum to 1; no class may be missing from the first part.
        seed: of the order in which equals are dealt.

    Returns:
        The part of each row [N].
    """
    dealer = _Dealer(classes, units, shares)
    order = np.random.default_rng(seed).permutation(dealer.num_units)
    sizes = np.bincount(units)
    for unit in order[np.argsort(-sizes[order], kind="stable")]:
        if sizes[unit] > 1:
            dealer.move(int(unit), dealer.cheapest(int(unit)))
    dealer.fill(order[sizes[order] == 1])
    dealer.serve_rare()
    return np.asarray(dealer.parts[units], dtype=np.int64)


class _Dealer:
    """How the dealing stands: the part of each unit, and the rows that each part has of each class."""

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
        """The part that comes nearest to its shares, or strays least from them, with the unit."""
        labels, counts = self.counts(unit)
        gap = self.have[:, labels] - self._targets[:, labels]
        # A part's squared distance with the unit, less that without; small parts and rare classes count as others do.
        change = (2 * gap + counts) * counts / self._totals[labels] ** 2 / self._shares[:, None]
        return int(change.sum(axis=1).argmin())

    def fill(self, singles: Integers) -> None:
        """Deal units of a single row, class by class, to the parts that lack them."""
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
        pairs = np.unique(np.stack([self._classes, self._units], axis=1), axis=0)
        own = np.split(pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(1, len(self._totals))))
        for label in sorted(range(len(own)), key=lambda number: len(own[number])):
            for part in range(min(len(self._shares), len(own[label]))):
                if not self.have[part, label]:
                    unit = self._spare(own[label], label, part)
                    if unit is not None:
                        self.move(unit, part)

    def _spare(self, units: Integers, label: int, part: int) -> int | None:
        """The smallest unit of a class that may come to a part: no other part is left without a class by it."""
        found: list[tuple[int, int]] = []
        for unit in units.tolist():
            labels, counts = self.counts(unit)
            emptied = self.have[self.parts[unit], labels] == counts
            # From a later part the class itself may be taken whole, for the earlier ones are served first.
            allowed = not emptied[(labels != label) | (self.parts[unit] < part)].any()
            if allowed or part == 0:
                found.append((int(counts.sum()) if allowed else self.num_units + len(self._units), unit))
        return min(found)[1] if found else None
