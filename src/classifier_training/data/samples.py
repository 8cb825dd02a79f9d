"""The rows of a data set by column, each a `Sample` where one is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from classifier_training.core.columns import CHUNK, Categories, CategoriesBuilder, Texts, TextsBuilder, category_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One sample: an image and its label.

    Args:
        path: relative to the data root, with forward slashes.
        label: class name; an empty one is legal.
        split: train, val or test; empty when the data does not say.
        group: samples of one group (a session, a video) stay in one split; empty when unknown.
        metadata: further fields by name; reports slice by them, and data.group may name one.
    """

    path: str
    label: str
    split: str = ""
    group: str = ""
    metadata: Mapping[str, Any] | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Samples(Sequence[Sample]):
    """Many samples, by column.

    Indexing with a number gives a `Sample`, with a slice or an array of rows or booleans other samples.

    Args:
        paths: of each sample [N]; see `Sample` for these.
        labels: of each sample [N].
        splits: of each sample [N].
        groups: of each sample [N].
        metadata: further columns [N] by name; code -1 where a sample has no such field.
    """

    paths: Texts
    labels: Categories[str]
    splits: Categories[str]
    groups: Categories[str]
    metadata: Mapping[str, Categories[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Sample]) -> Samples:
        """Make columns of rows; such as are columns already are returned."""
        if isinstance(rows, Samples):
            return rows
        builder = SamplesBuilder()
        for row in rows:
            builder.add(row.path, row.label, row.split, row.group, row.metadata)
        return builder.samples()

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Return the rows of several tables, one after the other."""
        metadata = {}
        for name in dict.fromkeys(name for part in parts for name in part.metadata):
            none = (part.metadata.get(name, Categories(np.full(len(part), -1, np.int8), ())) for part in parts)
            metadata[name] = Categories.joined([*none])
        return cls(
            Texts.joined([part.paths for part in parts]),
            Categories.joined([part.labels for part in parts]),
            Categories.joined([part.splits for part in parts]),
            Categories.joined([part.groups for part in parts]),
            metadata,
        )

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, row: int | np.integer[Any]) -> Sample: ...
    @overload
    def __getitem__(self, row: slice | NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Samples: ...
    def __getitem__(self, row: Any) -> Sample | Samples:
        if isinstance(row, (slice, np.ndarray)):
            metadata = {name: column[row] for name, column in self.metadata.items()}
            return Samples(self.paths[row], self.labels[row], self.splits[row], self.groups[row], metadata)
        return Sample(self.paths[row], self.labels[row], self.splits[row], self.groups[row], self.metadata_of(row))

    def __iter__(self) -> Iterator[Sample]:
        columns = zip(self.paths, self.labels, self.splits, self.groups, strict=True)
        if not self.metadata:
            return (Sample(*row) for row in columns)
        return (Sample(*row, self.metadata_of(number)) for number, row in enumerate(columns))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def metadata_of(self, row: int | np.integer[Any]) -> dict[str, Any] | None:
        """Return the further fields of a sample; None where it has none."""
        return {name: column[row] for name, column in self.metadata.items() if column.codes[row] >= 0} or None

    def with_columns(
        self,
        *,
        labels: Iterable[str] | None = None,
        splits: Iterable[str] | None = None,
        groups: Iterable[str] | None = None,
    ) -> Samples:
        """Return the same samples with other labels, splits or groups [N].

        Raises:
            ValueError: when there are more or fewer than samples.
        """
        given = {"labels": labels, "splits": splits, "groups": groups}
        columns = {name: Categories.of(values) for name, values in given.items() if values is not None}
        for name, column in columns.items():
            if len(column) != len(self):
                raise ValueError(f"{len(column)} {name} for {len(self)} samples")
        return replace(self, **columns)  # type: ignore[arg-type]


SampleRow: TypeAlias = "tuple[str, str, str, str, Mapping[str, Any] | None]"
"""Path, label, split, group and metadata; see `Sample`."""


class SamplesBuilder:
    """Collects the rows of a data set into columns; of a chunk of them at a time there are objects."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str, str]] = []
        self._paths = TextsBuilder()
        self._columns: tuple[CategoriesBuilder[str], ...] = tuple(CategoriesBuilder() for _ in range(3))
        self._number = 0
        self._metadata: dict[str, _Field] = {}

    def __len__(self) -> int:
        return self._number

    def add(
        self, path: str, label: str, split: str = "", group: str = "", metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Add a row; see `Sample`."""
        for name, value in (metadata or {}).items():
            if name not in self._metadata:
                self._metadata[name] = _Field()
            self._metadata[name].add(self._number, value)
        self._rows.append((path, label, split, group))
        self._number += 1
        if len(self._rows) >= CHUNK:
            self._flush()

    def extend(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Add rows of path, label, split and group."""
        rest = iter(rows)
        while chunk := list(islice(rest, CHUNK)):
            self._rows += chunk
            self._number += len(chunk)
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            paths, *others = zip(*self._rows, strict=True)
            self._paths.extend(paths)
            for column, values in zip(self._columns, others, strict=True):
                column.extend(values)
            self._rows.clear()

    def samples(self) -> Samples:
        """Return the rows so far."""
        self._flush()
        labels, splits, groups = (column.column() for column in self._columns)
        metadata = {name: field.column(self._number) for name, field in self._metadata.items()}
        return Samples(self._paths.column(), labels, splits, groups, metadata)


class _Field:
    """A column of metadata, whose values may be anything that JSON has."""

    def __init__(self) -> None:
        self._rows = array("q")
        self._codes = array("i")
        self._places: dict[Any, int] = {}
        self._values: list[Any] = []

    def add(self, row: int, value: Any) -> None:
        # 1, 1.0 and True are equal, and lists have no hash.
        key = (type(value), value) if isinstance(value, (str, int, float, bool, NoneType)) else len(self._values)
        place = self._places.setdefault(key, len(self._values))
        if place == len(self._values):
            self._values.append(value)
        self._rows.append(row)
        self._codes.append(place)

    def column(self, number: int) -> Categories[Any]:
        codes = np.full(number, -1, np.int32)
        codes[np.frombuffer(self._rows, np.int64)] = np.frombuffer(self._codes, np.int32)
        return Categories(codes, category_table(self._values))
