"""What images are sliced by: their group, their size, a field of their metadata."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.images import UnreadableImageError, read_size
from classifier_training.core.runtime import num_cores
from classifier_training.evaluation.slices import field_bins, size_bins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.core.types import SplitTable
    from classifier_training.data.index import Sample

GROUP, SIZE = "group", "size"


def slice_columns(names: Sequence[str], samples: Sequence[Sample], table: SplitTable) -> dict[str, list[str]]:
    """Return, for each name, the slice of each sample.

    Args:
        names: group, size (by the shorter side in pixels), or a field of the metadata.
        samples: of the table, in its order, with their metadata.
        table: the split.

    Raises:
        UserError: for a name that these images do not have.
    """
    fields = list(dict.fromkeys(name for sample in samples for name in sample.metadata or {}))
    found = {}
    for name in names:
        if name == SIZE:
            found[name] = _sizes(table.paths)
        elif name == GROUP and any(table.groups):
            found[name] = [group or "(none)" for group in table.groups]
        elif name in fields:
            found[name] = field_bins([(sample.metadata or {}).get(name) for sample in samples])
        else:
            known = [SIZE, *([GROUP] if any(table.groups) else []), *fields]
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
