"""What can be said of a data set without training: readable or not, sizes, balance."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.images import UnreadableImageError, read_size
from classifier_training.core.runtime import num_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from classifier_training.data.index import SampleIndex, SplitData


@dataclass(frozen=True)
class HeaderScan:
    """What the headers of all image files say.

    Args:
        sizes: width and height by relative path, of the readable files.
        unreadable: the error by relative path, of the others.
    """

    sizes: Mapping[str, tuple[int, int]]
    unreadable: Mapping[str, UnreadableImageError] = field(default_factory=dict)


def scan_headers(index: SampleIndex) -> HeaderScan:
    """Open every file's header, some in parallel; pixels are not decoded (about 10,000 files a second)."""
    paths = list(dict.fromkeys(sample.path for sample in index.samples))

    def read(path: str) -> tuple[int, int] | UnreadableImageError:
        try:
            return read_size(index.root / path)
        except UnreadableImageError as error:
            return error

    with ThreadPoolExecutor(max_workers=2 * num_cores()) as pool:
        found = dict(zip(paths, pool.map(read, paths, chunksize=64), strict=True))
    return HeaderScan(
        sizes={path: size for path, size in found.items() if not isinstance(size, UnreadableImageError)},
        unreadable={path: error for path, error in found.items() if isinstance(error, UnreadableImageError)},
    )


def imbalance_ratio(class_counts: NDArray[np.int64]) -> float:
    """Images of the most frequent class over those of the rarest that has any; 1 when nothing is there."""
    present = class_counts[class_counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def dataset_statistics(data: SplitData, sizes: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Summarise a data set: images and classes of each split, imbalance, picture sizes."""
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


def _five_numbers(values: NDArray[np.int64]) -> dict[str, float]:
    cuts = np.percentile(values, [0, 25, 50, 75, 100])
    return dict(zip(("min", "q1", "median", "q3", "max"), cuts.tolist(), strict=True))
