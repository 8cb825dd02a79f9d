"""Statistics of a data set: readable files, image sizes, class balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.columns import Texts
from classifier_training.core.labels import sort_labels
from classifier_training.core.types import SPLITS
from classifier_training.data.checking.known_files import HEADER, IS_CUT, LACKS_RANGE, FileTable
from classifier_training.data.image_settings import Depth
from classifier_training.data.index import SplitData, split_tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.image_files import UnreadableImageError
    from classifier_training.data.checking.duplicates import Copies
    from classifier_training.data.checking.scan import FileScan
    from classifier_training.data.index import SampleIndex


CHUNK = 4096
"""Thumbnails that are added up at a time."""


@dataclass(frozen=True)
class HeaderScan:
    """The headers of all image files.

    Args:
        files: every file once, with what its header states.
        unreadable: the errors by relative path, of the files that cannot be read.
    """

    files: FileTable
    unreadable: Mapping[str, UnreadableImageError] = field(default_factory=dict)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Width and height of each readable file, int64 [N, 2]."""
        return self._sizes(self._known(HEADER))

    @property
    def depth(self) -> Depth:
        """Which of the readable files have more than 8 bits."""
        lacking, cut = ([*self.files.paths[self._known(kind)]] for kind in (LACKS_RANGE, IS_CUT))
        return Depth(lacking, cut)

    def sizes_of(self, paths: Texts) -> NDArray[np.int64]:
        """Width and height of some of the files, int64 [N, 2]; zeros where one is unreadable."""
        return self._sizes(paths.places_in(self.files.paths))

    def copies(self) -> list[tuple[str, ...]]:
        """Group the readable files with the same bytes; see `exact_copies`."""
        return self.files.copies(self._known(HEADER))

    def _known(self, kind: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.files.rows["known"] & kind)

    def _sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack([self.files.rows[name][rows] for name in ("width", "height")], axis=1).astype(np.int64)


def scan_headers(index: SampleIndex) -> HeaderScan:
    """Read the headers of the files that are new or have changed; pixels are not decoded."""
    files = FileTable(index.root, index.paths)
    errors = files.read_headers()
    return HeaderScan(files, {files.paths[row]: error for row, error in sorted(errors.items())})


def imbalance_ratio(class_counts: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Images of the most frequent class over those of the rarest that has any; 1 if there are no images."""
    present = class_counts[class_counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def dataset_statistics(data: SplitData, sizes: Sequence[tuple[int, int]] | NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Summarize a data set: images and classes of each split, imbalance, and the sizes of its images, int64 [N, 2]."""
    widths, heights = np.asarray(sizes, dtype=np.int64).reshape(-1, 2).T
    statistics: dict[str, Any] = {
        "root": str(data.root),
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "splits": {},
    }
    for name in data.tables:
        counts = data.counts(name)
        statistics["splits"][name] = {
            "num_images": int(counts.sum()),
            "class_counts": dict(zip(data.class_names, counts.tolist(), strict=True)),
            "imbalance_ratio": round(imbalance_ratio(counts), 3),
        }
    if len(widths):
        statistics["image_size"] = {
            "width": _five_numbers(widths),
            "height": _five_numbers(heights),
            "most_common": [
                {"width": key >> 32, "height": key & 0xFFFFFFFF, "num_images": number}
                for key, number in _most_common(widths << 32 | heights, 5)
            ],
        }
    return statistics


def _most_common(values: NDArray[np.int64], number: int) -> list[tuple[int, int]]:
    """Return the most frequent values with their counts; of equally frequent ones, those that occur first."""
    found, first, counts = np.unique(values, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))[:number]
    return list(zip(found[order].tolist(), counts[order].tolist(), strict=True))


def count_data(index: SampleIndex) -> SplitData:
    """Make a table of each split as the data has them; without splits, one table called all.

    Samples without a split, beside others that have one, form the table unsplit. All labels are numbered here; training
    numbers those of its training split, see `index.tabulate`.
    """
    class_names = sort_labels(index.labels.counts())
    rest = "unsplit" if index.present_splits() else "all"
    names = {split: split or rest for split in (*SPLITS, "")}
    return SplitData(index.root, class_names, split_tables(index, class_names, names))


def file_statistics(index: SampleIndex, scan: FileScan, copies: Copies) -> dict[str, Any]:
    """Summarize the files, which an analysis adds to `dataset_statistics`."""
    readable = scan.readable
    found: dict[str, Any] = {
        "num_files": len(scan.facts),
        "num_unreadable": len(scan.unreadable),
        "modes": dict(Counter(fact.mode for fact in readable).most_common()),
        "exif_orientations": {
            str(orientation): number
            for orientation, number in sorted(Counter(fact.orientation for fact in readable).items())
        },
        "num_animated": sum(fact.num_frames > 1 for fact in readable),
        "num_groups": len(index.groups.counts().keys() - {""}),
        "copies": {
            kind: {"num_groups": len(groups), "num_files": sum(map(len, groups))}
            for kind, groups in (("exact", copies.exact), ("near", copies.near))
        },
    }
    if readable:
        found["aspect_ratio"] = _five_numbers(np.array([fact.width / fact.height for fact in readable]))
        found["brightness"] = _five_numbers(np.array([fact.brightness for fact in readable]))
    return found


def mean_images(index: SampleIndex, scan: FileScan, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Average each class's thumbnails, uint8 [K, S, S, 3]; black for a class without a readable file."""
    facts = Texts.of(fact.path for fact in scan.facts)
    places = index.paths.places_in(facts)
    # A sample that was not scanned has no fact.
    is_readable = np.array([*(not fact.error for fact in scan.facts), False])[places]
    labels = index.labels.places_in(class_names)
    means = np.zeros((len(class_names), *scan.thumbnails.shape[1:]), dtype=np.uint8)
    for number, mean in enumerate(means):
        rows = places[is_readable & (labels == number)]
        total = np.zeros(mean.shape, dtype=np.int64)
        for start in range(0, len(rows), CHUNK):
            total += scan.thumbnails[rows[start : start + CHUNK]].sum(axis=0, dtype=np.int64)
        mean[...] = total // max(len(rows), 1)
    return means


def _five_numbers(values: NDArray[Any]) -> dict[str, float]:
    cuts = np.percentile(values, [0, 25, 50, 75, 100])
    return dict(zip(("min", "q1", "median", "q3", "max"), cuts.tolist(), strict=True))
