"""The columns of a Lance set, and the rows that a data set has for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from classifier_training.core.places import known
from classifier_training.core.types import TEST
from classifier_training.data.index import absolute_prefix

if TYPE_CHECKING:
    from classifier_training.data.index import SampleIndex


class Row(NamedTuple):
    """A sample as the data has it.

    Args:
        path: relative to the root of the data.
        label: None for an image without a label.
        split: may be empty.
        group: may be empty.
        metadata: as JSON; empty where there is none.
        stamp: changes with the file's content and is known without reading it; empty where there is no such thing.
    """

    path: str
    label: str | None
    split: str = ""
    group: str = ""
    metadata: str = ""
    stamp: str = ""

    @property
    def identity(self) -> str:
        """Tells it from all other samples of the data."""
        return f"{self.path}\0{'' if self.label is None else 'l' + self.label}"


def schema() -> Any:
    """Return the columns of a set, as an Arrow schema."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("split", pa.string()),
            pa.field("group", pa.string()),
            pa.field("metadata", pa.string()),
            pa.field("position", pa.int64()),
            pa.field("key", pa.uint64()),
            pa.field("image", pa.large_binary()),
            pa.field("num_bytes", pa.int64()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("lacks_range", pa.bool_()),
            pa.field("is_cut", pa.bool_()),
            pa.field("sha256", pa.binary(32)),
            pa.field("stamp", pa.string()),
        ]
    )


SMALL = ("split", "group", "metadata", "position")
"""Columns that a new version may change without writing an image again."""


def rows_of(index: SampleIndex) -> list[Row]:
    """Return the samples of a data set in their order, and then its images without labels."""
    rows = []
    for sample in index.samples:
        metadata = json.dumps(sample.metadata, ensure_ascii=False, default=str) if sample.metadata else ""
        rows.append(Row(sample.path, sample.label, sample.split, sample.group, metadata))
    rows += [Row(path, None, TEST) for path in index.unlabelled]
    prefix = absolute_prefix(index.root)
    facts = known([prefix + row.path for row in rows])
    return [
        row if fact is None or not fact.version else row._replace(stamp=f"{fact.num_bytes}-{fact.version}")
        for row, fact in zip(rows, facts, strict=True)
    ]
