"""data=lance: a set that prepare has written, as one of its versions has it."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.runtime import setting
from classifier_training.core.settings import Resume
from classifier_training.core.storage.lance_rows import SetPlace, open_set, set_place
from classifier_training.core.storage.places import path_of
from classifier_training.data.accounting import FolderFiles
from classifier_training.data.formats.source import FolderSource
from classifier_training.data.index import NoSamplesError, SampleIndex
from classifier_training.data.samples import Sample, Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

Version = Annotated[int, Field(ge=1)]

COLUMNS = ("path", "label", "split", "group", "metadata", "position")


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


@dataclass(frozen=True, kw_only=True)
class VersionedSource(FolderSource):
    """A data set that may be a Lance set, of which one version is read.

    Args:
        version: of a Lance set; the newest at the start of the run when left out, which the run keeps.
    """

    version: Annotated[Version | None, Resume.FIXED] = None

    def pinned(self) -> Self:
        """Return the source with the version that the newest one is now, for each Lance set that names none.

        Raises:
            UserError: when there is no such set.
        """
        if isinstance(self.root, list):
            return dataclasses.replace(self, root=[_pinned(root) for root in self.root])
        place = None if self.root is None else set_place(self.root)
        if place is None or self.version is not None or place.version is not None:
            return self
        version = open_set(place.root).version
        log.info("%s: version %d, the newest; %s reads the same", place.root, version, setting("data.version", version))
        return dataclasses.replace(self, version=version)


def _pinned(root: str) -> str:
    place = set_place(root)
    if place is None or place.version is not None:
        return root
    version = open_set(place.root).version
    log.info("%s: version %d, the newest", place.root, version)
    return place._replace(version=version).name


@register(group="data", name="lance", extra="lance")
@dataclass(frozen=True, kw_only=True)
class LanceSet(VersionedSource):
    """A Lance set that prepare has written, on a disk or in an object store."""

    def _read_root(self, root: str | None) -> SampleIndex:
        return self.read_one_root(root)

    def read_one_root(self, root: str | None) -> SampleIndex:
        """List the samples of one set; see `read_set`.

        Raises:
            UserError: when the path is none of a set, or data.version stands beside several.
        """
        place = None if root is None else set_place(root)
        if place is None or place.path:
            raise UserError(
                f"data.root={root} is no Lance set", "a folder or URL that ends in .lance", "data.root=/my/set.lance"
            )
        if self.version is not None and isinstance(self.root, list):
            raise UserError(
                f"data.version={self.version} beside several folders",
                "the version of each set in data.root",
                f"data.root=[{place.root}/@{self.version},…]",
            )
        return read_set(place._replace(version=place.version or self.version))


def read_set(place: SetPlace) -> SampleIndex:
    """List the samples of a set in the order that its data have; the paths name its version.

    Raises:
        UserError: when there is no such set or version, or it is not one that prepare has written.
    """
    opened = open_set(place.root, place.version)
    missing = {*COLUMNS, "key", "image"} - set(opened.schema.names)
    if missing:
        raise UserError(
            f"{place.root}: no column {', '.join(sorted(missing))}",
            "a set that prepare has written",
            "classifier-training prepare DATA output=….lance writes one from images, Parquet or WebDataset",
        )
    root = path_of(place._replace(version=opened.version).name)
    table = opened.to_table(columns=list(COLUMNS))
    table = table.take(np.argsort(table["position"].to_numpy(), kind="stable"))
    is_unlabelled = table["label"].is_null().to_numpy(zero_copy_only=False)
    samples = Samples.of(_samples(table.filter(~is_unlabelled)))
    if not samples:
        raise NoSamplesError(
            f"{place.root}: no row with a label", "rows with labels", "prepare it from labelled images"
        )
    unlabelled = table.filter(is_unlabelled)["path"].to_pylist()
    return SampleIndex(root, samples, unlabelled=tuple(unlabelled), files=FolderFiles(root, len(samples)))


def _samples(table: Any) -> Iterator[Sample]:
    for batch in table.to_batches(max_chunksize=1 << 14):
        for path, label, split, group, metadata in zip(
            *(batch.column(name).to_pylist() for name in COLUMNS[:-1]), strict=True
        ):
            yield Sample(path, label, split, group, json.loads(metadata) if metadata else None)
