"""Metrics of parts of a split: where a classifier is worse than its average says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_size
from classifier_training.core.runtime import num_cores
from classifier_training.evaluation.counts import ClassCounts, balanced_accuracy, resampled_counts
from classifier_training.evaluation.groups import resample_groups
from classifier_training.evaluation.intervals import (
    MAX_CHUNK,
    MAX_RESAMPLES,
    SEED,
    Estimate,
    bootstrap_interval,
    exact_shares,
    grouped_shares,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitTable
    from classifier_training.evaluation.groups import Groups

GROUP, SIZE = "group", "size"

MAX_VALUES = 12
"""Numbers up to which each value of a field is a slice of its own; more are put into four bins."""


@dataclass(frozen=True)
class Slice:
    """A part of the images.

    Args:
        by: what they were divided by: group, size, or a field.
        value: what these have in common.
        num_images: how many they are.
        accuracy: share of correct predictions.
        balanced_accuracy: mean recall of the classes that occur among them.
    """

    by: str
    value: str
    num_images: int
    accuracy: Estimate
    balanced_accuracy: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        metrics = {"accuracy": self.accuracy.to_dict(), "balanced_accuracy": self.balanced_accuracy.to_dict()}
        return {"by": self.by, "value": self.value, "num_images": self.num_images, **metrics}


def slice_metrics(
    by: str,
    values: Sequence[str],
    targets: NDArray[np.int64],
    predicted: NDArray[np.int64],
    *,
    num_classes: int,
    groups: Groups | None = None,
) -> list[Slice]:
    """Score each part of a split by itself.

    Intervals are by groups where there are such, but for slices by group: each is one group, whose own images count as
    independent.

    Args:
        by: what it is divided by.
        values: of each image [N].
        targets: class numbers [N].
        predicted: predicted class numbers [N].
        num_classes: K.
        groups: of the images, where those of one group are not independent.

    Returns:
        The slices in the order in which their values first occur.
    """
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    places = np.array([numbers[value] for value in values], dtype=np.int64)
    parts = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places, minlength=len(numbers)))[:-1])
    found = []
    for (value, number), rows in zip(numbers.items(), parts, strict=False):
        counts = ClassCounts.of(targets[rows], predicted[rows], num_classes)
        if groups is None or by == GROUP:
            (share,) = exact_shares(np.array([counts.hits.sum()]), np.array([len(rows)]))
            balanced = _balanced(counts, [SEED, number])
        else:
            own = groups.take(rows)
            right = own.sums(targets[rows] == predicted[rows])
            (share,) = grouped_shares([(right[:, None], own.sizes[:, None].astype(np.float64))])
            balanced = _grouped_balanced(own, targets[rows], predicted[rows], counts)
        found.append(Slice(by, value, len(rows), share, balanced))
    return found


def worst_slice(slices: Sequence[Slice]) -> Slice | None:
    """The slice that is most likely bad: the one whose accuracy is lowest at the upper end of its interval.

    By the accuracy alone a slice of two images would win. It is chosen out of several, so its interval is somewhat too
    low. None when there is nothing to choose from.
    """
    return min(slices, key=lambda item: (item.accuracy.high, item.accuracy.value)) if len(slices) > 1 else None


def slice_columns(
    names: Sequence[str], metadata: Sequence[Mapping[str, object] | None], table: SplitTable
) -> dict[str, list[str]]:
    """Return, for each name, the slice of each sample.

    Args:
        names: group, size (by the shorter side in pixels), or a field of the metadata.
        metadata: of each sample of the table [N]; None where it has none.
        table: the split.

    Raises:
        UserError: for a name that these images do not have.
    """
    known_fields = list(dict.fromkeys(name for fields in metadata for name in fields or {}))
    found = {}
    for name in names:
        if name == SIZE:
            found[name] = _sizes(table.paths)
        elif name == GROUP and any(table.groups):
            found[name] = [group or "(none)" for group in table.groups]
        elif name in known_fields:
            found[name] = field_bins([(fields or {}).get(name) for fields in metadata])
        else:
            known = [SIZE, *([GROUP] if any(table.groups) else []), *known_fields]
            close = nearest(name, known)
            raise UserError(
                f"slices={name}: the images have no {'groups' if name == GROUP else 'such field'}",
                f"one of {enumerate_words(known)}",
                f"slices=[{close[0] if close else SIZE}]",
            )
    return found


def _sizes(paths: Sequence[str]) -> list[str]:
    """Bin the sizes in the files' headers; whoever decodes a file that has none will name it."""

    def read(path: str) -> tuple[int, int] | None:
        try:
            return read_size(path)
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(max_workers=2 * num_cores()) as pool:
        sizes = list(pool.map(read, paths, chunksize=64))
    bins = iter(size_bins([size for size in sizes if size is not None]))
    return ["(unreadable)" if size is None else next(bins) for size in sizes]


def size_bins(sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Name the bin of each image, given as width and height in pixels, by its shorter side: doubling from 32."""
    shorter = np.array([min(size) for size in sizes])
    bounds = 2 ** np.arange(5, 13)
    names = [
        f"under {bounds[0]} px",
        *(f"{low}-{high - 1} px" for low, high in pairwise(bounds)),
        f"{bounds[-1]} px and more",
    ]
    return [names[place] for place in np.searchsorted(bounds, shorter, side="right")]


def field_bins(values: Sequence[object]) -> list[str]:
    """Name the slice of each value of a field: the value itself, or of many numbers the quarter that it is in.

    Equal numbers are in one slice, so that there may be fewer than four.
    """
    texts = ["(none)" if value is None or value != value else str(value) for value in values]
    numbers = np.array(
        [value if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan for value in values]
    )
    rows = np.flatnonzero(np.isfinite(numbers))
    numbers = numbers[rows]
    if len(rows) < len(texts) - texts.count("(none)") or len(np.unique(numbers)) <= MAX_VALUES:
        return texts
    ends = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75, 1], method="inverted_cdf"))
    places = np.searchsorted(ends, numbers)
    for place in range(len(ends)):
        inside = numbers[places == place]
        # Twelve digits tell dates and numbers of parts apart.
        low, high = (f"{end:.12g}" for end in (inside.min(), inside.max()))
        for row in rows[places == place]:
            texts[row] = low if low == high else f"{low} to {high}"
    return texts


def _balanced(counts: ClassCounts, seed: Sequence[int]) -> Estimate:
    value = float(balanced_accuracy(counts))
    present = counts.support > 0
    support = counts.support[present]
    # Resampling a class's images gives binomial hits; each class by itself, as in `intervals.resample`.
    recalls = counts.hits[present] / support
    hits = np.random.default_rng(seed).binomial(support.astype(np.int64), recalls, (MAX_RESAMPLES, len(support)))
    return bootstrap_interval(value, (hits / support).mean(axis=1))


def _grouped_balanced(
    groups: Groups, targets: NDArray[np.int64], predicted: NDArray[np.int64], counts: ClassCounts
) -> Estimate:
    resamples = resample_groups(groups, MAX_RESAMPLES, seed=SEED, max_values=MAX_CHUNK)
    parts = resampled_counts(targets, predicted, len(counts.hits), resamples)
    replicates = np.concatenate([balanced_accuracy(part) for part, _ in parts])
    return bootstrap_interval(float(balanced_accuracy(counts)), replicates, groups)
