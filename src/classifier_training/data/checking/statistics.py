"""Statistics of a data set: readable files, image sizes, class balance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.images import UnreadableImageError, read_headers
from classifier_training.core.labels import index_labels, sort_labels
from classifier_training.core.types import SPLITS
from classifier_training.data.image_settings import Depth
from classifier_training.data.index import SplitData, split_tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.data.checking.duplicates import Copies
    from classifier_training.data.checking.scan import FileScan
    from classifier_training.data.index import SampleIndex


@dataclass(frozen=True)
class HeaderScan:
    """The headers of all image files.

    Args:
        sizes: width and height by relative path, of the readable files.
        unreadable: the error by relative path, of the others.
        depth: which of the readable files have more than 8 bits.
    """

    sizes: Mapping[str, tuple[int, int]]
    unreadable: Mapping[str, UnreadableImageError] = field(default_factory=dict)
    depth: Depth = field(default_factory=Depth)


def scan_headers(index: SampleIndex) -> HeaderScan:
    """Read every file's header; pixels are not decoded."""
    paths = list(dict.fromkeys(sample.path for sample in index.samples))
    found = dict(zip(paths, read_headers([index.root / path for path in paths]), strict=True))
    readable = {path: header for path, header in found.items() if not isinstance(header, UnreadableImageError)}
    return HeaderScan(
        sizes={path: (header.width, header.height) for path, header in readable.items()},
        unreadable={path: error for path, error in found.items() if isinstance(error, UnreadableImageError)},
        depth=Depth.of(readable),
    )


def imbalance_ratio(class_counts: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Images of the most frequent class over those of the rarest that has any; 1 if there are no images."""
    present = class_counts[class_counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def dataset_statistics(data: SplitData, sizes: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Summarise a data set: images and classes of each split, imbalance, image sizes."""
    widths, heights = np.array(list(sizes), dtype=np.int64).reshape(-1, 2).T
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
                {"width": width, "height": height, "num_images": number}
                for (width, height), number in Counter(zip(widths.tolist(), heights.tolist(), strict=True)).most_common(
                    5
                )
            ],
        }
    return statistics


def count_data(index: SampleIndex) -> SplitData:
    """Make a table of each split as the data has them; without splits, one table called all.

    Samples without a split, beside others that have one, form the table unsplit. All labels are numbered here; training
    numbers those of its training split, see `index.tabulate`.
    """
    class_names = sort_labels(sample.label for sample in index.samples)
    rest = "unsplit" if index.present_splits() else "all"
    names = {split: split or rest for split in (*SPLITS, "")}
    return SplitData(index.root, class_names, split_tables(index, class_names, names))


def file_statistics(index: SampleIndex, scan: FileScan, copies: Copies) -> dict[str, Any]:
    """Summarise the files, which an analysis adds to `dataset_statistics`."""
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
        "num_groups": len({sample.group for sample in index.samples if sample.group}),
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
    numbers = index_labels(class_names)
    places = {fact.path: place for place, fact in enumerate(scan.facts) if not fact.error}
    sums = np.zeros((len(class_names), *scan.thumbnails.shape[1:]), dtype=np.int64)
    counts = np.zeros(len(class_names), dtype=np.int64)
    for sample in index.samples:
        if sample.path in places:
            sums[numbers[sample.label]] += scan.thumbnails[places[sample.path]]
            counts[numbers[sample.label]] += 1
    return np.asarray(sums // np.maximum(counts, 1)[:, None, None, None], dtype=np.uint8)


def _five_numbers(values: NDArray[Any]) -> dict[str, float]:
    cuts = np.percentile(values, [0, 25, 50, 75, 100])
    return dict(zip(("min", "q1", "median", "q3", "max"), cuts.tolist(), strict=True))
