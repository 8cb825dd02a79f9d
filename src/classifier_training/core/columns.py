"""Columns of millions of rows without an object for each: texts in one buffer, and categories as numbers.

The layout is that of Arrow's string and dictionary arrays. NumPy's StringDType is pickled as objects, and taking or
comparing two million rows of it takes seconds.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from numpy.typing import NDArray

    Rows = NDArray[np.integer[Any]] | NDArray[np.bool_]

T = TypeVar("T")

CHUNK = 1 << 14
"""Rows of which there are objects at a time."""

MAX_OBJECTS = 1 << 16
"""Different texts of a category column up to which they are objects."""


class Column(Sequence[T]):
    """A column of values, equal to a sequence of the same values."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        more = "…" if len(self) > 3 else ""
        return f"{type(self).__name__}({[*islice(self, 3)]}{more}, {len(self)} rows)"


class Texts(Column[str]):
    """A column of texts: UTF-8, end to end in one buffer, of which a selection of rows shares the bytes.

    Indexing with a number gives a text, with a slice or an array of rows or booleans a column.

    Args:
        data: the bytes.
        begins: of each text in them [N].
        ends: of each text in them [N].
        prefix: what every text begins with besides.
        is_distinct: whether no text occurs twice, where that is known.
    """

    __slots__ = ("_is_distinct", "begins", "data", "ends", "prefix")

    def __init__(
        self,
        data: bytes,
        begins: NDArray[np.integer[Any]],
        ends: NDArray[np.integer[Any]],
        prefix: str = "",
        *,
        is_distinct: bool | None = None,
    ) -> None:
        self.data = data
        self.begins = begins
        self.ends = ends
        self.prefix = prefix
        self._is_distinct = is_distinct

    @classmethod
    def of(cls, values: Iterable[str]) -> Texts:
        """Make a column of texts; one that is a column already is returned."""
        if isinstance(values, Texts):
            return values
        builder = TextsBuilder()
        builder.extend(values)
        return builder.column()

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """Return the rows of several columns, one after the other."""
        if any(part.prefix for part in parts):
            return cls.of(chain.from_iterable(parts))
        starts = np.cumsum([0, *(len(part.data) for part in parts)])
        kind = _smallest(int(starts[-1]), np.uint32, np.int64)
        begins, ends = (
            np.concatenate([array.astype(kind) + kind(start) for array, start in zip(arrays, starts, strict=False)])
            if parts
            else np.zeros(0, kind)
            for arrays in ([part.begins for part in parts], [part.ends for part in parts])
        )
        return cls(b"".join(part.data for part in parts), begins, ends)

    def prefixed(self, prefix: str) -> Texts:
        """Return the column with a text before each; they are joined when they are read."""
        return Texts(self.data, self.begins, self.ends, prefix + self.prefix, is_distinct=self._is_distinct)

    def __len__(self) -> int:
        return len(self.begins)

    @overload
    def __getitem__(self, row: int | np.integer[Any]) -> str: ...
    @overload
    def __getitem__(self, row: slice | Rows) -> Texts: ...
    def __getitem__(self, row: Any) -> str | Texts:
        if isinstance(row, (slice, np.ndarray)):
            # An array of numbers may name a row twice.
            is_distinct = (self._is_distinct or None) if isinstance(row, slice) or row.dtype == bool else None
            return Texts(self.data, self.begins[row], self.ends[row], self.prefix, is_distinct=is_distinct)
        return self.prefix + self.data[self.begins[row] : self.ends[row]].decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        prefix = self.prefix
        for found in self.encoded():
            yield prefix + found.decode(errors="surrogatepass")

    def __reduce__(self) -> tuple[Any, ...]:
        # A selection is sent without the bytes of the other rows.
        column = self if self._num_bytes() == len(self.data) else Texts.of(iter(self.unprefixed()))
        return Texts, (column.data, column.begins, column.ends, self.prefix)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows' places and of the whole buffer."""
        return self.begins.nbytes + self.ends.nbytes + len(self.data)

    def _num_bytes(self) -> int:
        return int(self.ends.sum(dtype=np.int64) - self.begins.sum(dtype=np.int64))

    def encoded(self) -> Iterator[bytes]:
        """Yield the UTF-8 of each text without its prefix."""
        data = self.data
        for start in range(0, len(self), CHUNK):
            begins, ends = (array[start : start + CHUNK].tolist() for array in (self.begins, self.ends))
            for begin, end in zip(begins, ends, strict=True):
                yield data[begin:end]

    def first_not_utf8(self) -> str | None:
        """The first text with characters that UTF-8 does not have, as file names may; None if there is none."""
        if self.data.isascii() or _is_utf8(self.data):
            return None
        return next((text.decode(errors="surrogatepass") for text in self.encoded() if not _is_utf8(text)), None)

    def initials(self) -> NDArray[np.uint8]:
        """First byte of each text without its prefix, uint8 [N]; 0 for an empty one."""
        if not self.data:
            return np.zeros(len(self), np.uint8)
        found = np.frombuffer(self.data, np.uint8)[np.minimum(self.begins, len(self.data) - 1)]
        return np.where(self.begins == self.ends, np.uint8(0), found)

    def hashes(self) -> NDArray[np.int64]:
        """A number of each text without its prefix, int64 [N], the same for equal texts in this process."""
        return np.fromiter(map(hash, self.encoded()), np.int64, len(self))

    def numbers(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number the different texts in the order in which they first occur.

        Returns:
            The number of each row's text, int64 [N], and the first row of each number, int64 [U].
        """
        if self._is_distinct:
            return np.arange(len(self)), np.arange(len(self))
        codes, first = number_by_first(self.hashes())
        rows = np.flatnonzero(first[codes] != np.arange(len(self)))
        if not all(map(operator.eq, self[rows].encoded(), self[first[codes[rows]]].encoded())):
            # Two texts have the same hash.
            found: dict[bytes, int] = {}
            places = (found.setdefault(text, len(found)) for text in self.encoded())
            codes, first = number_by_first(np.fromiter(places, np.int64, len(self)))
        # Only this is kept: an array would hold eight bytes a row.
        self._is_distinct = len(first) == len(self)
        return codes, first

    def is_distinct(self) -> bool:
        """Whether no text occurs twice; looked for once."""
        if self._is_distinct is None:
            self.numbers()
        return bool(self._is_distinct)

    def find(self, wanted: Collection[str]) -> NDArray[np.int64]:
        """Return the rows whose text is one of some, int64."""
        names = {name.removeprefix(self.prefix) for name in wanted if name.startswith(self.prefix)}
        if not names:
            return np.zeros(0, np.int64)
        known = np.array([hash(name.encode(errors="surrogatepass")) for name in names], dtype=np.int64)
        rows = np.flatnonzero(np.isin(self.hashes(), known))
        return rows[[text in names for text in self[rows].unprefixed()]] if len(rows) else rows

    def places_in(self, table: Texts) -> NDArray[np.int64]:
        """Return the place of each text in a column of distinct texts, int64 [N]; its length where that lacks it."""
        if self.data is table.data and self.prefix == table.prefix and (table.begins[1:] > table.begins[:-1]).all():
            # Rows that were selected from the same buffer are found by where they begin.
            places = np.searchsorted(table.begins, self.begins)
            inside = np.minimum(places, max(len(table) - 1, 0))
            if len(table) and (table.begins[inside] == self.begins).all() and (table.ends[inside] == self.ends).all():
                return places
        numbers, first = Texts.joined([table, self]).numbers()
        return np.minimum(first[numbers[len(table) :]], len(table))

    def unprefixed(self) -> Texts:
        """Return the column without what every text begins with besides."""
        return Texts(self.data, self.begins, self.ends)


class TextsBuilder:
    """Collects texts for a column, a chunk of them at a time."""

    def __init__(self) -> None:
        # Large arrays that grow, because the C library keeps the memory of many smaller pieces.
        self._data = bytearray()
        self._lengths = array("q")

    def extend(self, values: Iterable[str]) -> None:
        """Add texts."""
        rest = iter(values)
        while chunk := list(islice(rest, CHUNK)):
            text = "".join(chunk)
            data = text.encode(errors="surrogatepass")
            is_ascii = len(data) == len(text)
            self._data += data
            self._lengths.extend(
                map(len, chunk if is_ascii else (value.encode(errors="surrogatepass") for value in chunk))
            )

    def column(self) -> Texts:
        """Return the texts so far."""
        offsets = np.zeros(len(self._lengths) + 1, _smallest(len(self._data), np.uint32, np.int64))
        np.cumsum(np.frombuffer(self._lengths, np.int64), out=offsets[1:])
        return Texts(bytes(self._data), offsets[:-1], offsets[1:])


class Categories(Column[T]):
    """A column with few different values, each of them stored once.

    Indexing with a number gives a value, with a slice or an array of rows or booleans a column.

    Args:
        codes: place of each row's value in the table [N]; -1 for a row without one.
        values: the table, which has a text once; it may hold values that no row has.
    """

    __slots__ = ("codes", "values")

    def __init__(self, codes: NDArray[np.integer[Any]], values: Sequence[T]) -> None:
        self.codes = codes.astype(_smallest(len(values), np.int8, np.int16, np.int32), copy=False)
        self.values = values

    @classmethod
    def of(cls, found: Iterable[T]) -> Categories[T]:
        """Make a column of values; one that is a column already is returned."""
        if isinstance(found, Categories):
            return found
        builder: CategoriesBuilder[T] = CategoriesBuilder()
        builder.extend(found)
        return builder.column()

    @classmethod
    def same(cls, value: T, number: int) -> Categories[T]:
        """Make a column of rows that all have one value."""
        return cls(np.zeros(number, np.int8), (value,))

    @classmethod
    def joined(cls, parts: Sequence[Categories[T]]) -> Categories[T]:
        """Return the rows of several columns, one after the other."""
        table: _Numbers[Any] = _Numbers()
        codes = []
        for part in parts:
            # Lists have no hash, and 1, 1.0 and True are equal.
            keys = (value if isinstance(value, str) else _Other(value) for value in part.values)
            places = np.fromiter(map(table.__getitem__, keys), np.int64, len(part.values))
            codes.append(np.append(places, -1)[part.codes])
        values = [key.value if isinstance(key, _Other) else key for key in table]
        return cls(np.concatenate([np.zeros(0, np.int64), *codes]), category_table(values))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, row: int | np.integer[Any]) -> T: ...
    @overload
    def __getitem__(self, row: slice | Rows) -> Categories[T]: ...
    def __getitem__(self, row: Any) -> T | Categories[T]:
        if isinstance(row, (slice, np.ndarray)):
            return Categories(self.codes[row], self.values)
        return self.values[int(self.codes[row])]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), CHUNK):
            yield from map(self.values.__getitem__, self.codes[start : start + CHUNK].tolist())

    def __reduce__(self) -> tuple[Any, ...]:
        return Categories, (self.codes, self.values)

    def where(self, *wanted: T) -> NDArray[np.bool_]:
        """Which rows have one of some values, bool [N]."""
        places = [place for place, value in enumerate(self.values) if value in wanted]
        return self.codes == places[0] if len(places) == 1 else np.isin(self.codes, places)

    def counts(self) -> dict[T, int]:
        """Return the number of rows of each value that a row has."""
        numbers = np.bincount(self.codes[self.codes >= 0], minlength=len(self.values)).tolist()
        return {value: number for value, number in zip(self.values, numbers, strict=True) if number}

    def places_in(self, table: Sequence[T]) -> NDArray[np.int64]:
        """Return the place of each row's value in another table, int64 [N]; -1 where that lacks it."""
        places = {value: place for place, value in enumerate(table)}
        found = [places.get(value, -1) for value in self.values]
        return np.asarray(np.array([*found, -1], dtype=np.int64)[self.codes])

    def replaced(self, rows: Rows, values: Iterable[T]) -> Categories[T]:
        """Return the column with other values in some rows."""
        others = Categories.of(values)
        joined = Categories.joined([self, others])
        codes = joined.codes[: len(self)].copy()
        codes[rows] = joined.codes[len(self) :]
        return Categories(codes, joined.values)

    def mapped(self, function: Any) -> Categories[Any]:
        """Return the column with a function of each value, which is called once a value."""
        table: _Numbers[Any] = _Numbers()
        places = np.fromiter((table[function(value)] for value in self.values), np.int64, len(self.values))
        return Categories(np.append(places, -1)[self.codes], category_table(table))


class CategoriesBuilder(Generic[T]):
    """Collects values for a column."""

    def __init__(self) -> None:
        self._table: _Numbers[T] = _Numbers()
        self._codes = array("i")

    def extend(self, values: Iterable[T]) -> None:
        """Add values."""
        self._codes.extend(map(self._table.__getitem__, values))

    def column(self) -> Categories[T]:
        """Return the values so far."""
        return Categories(np.array(self._codes, dtype=np.int32), category_table(self._table))


class _Numbers(dict[T, int]):
    """Numbers values in the order in which they come."""

    def __missing__(self, value: T) -> int:
        self[value] = number = len(self)
        return number


@dataclass(frozen=True, eq=False)
class _Other:
    """A value that is no text; as a key it is equal to itself alone."""

    value: Any


def category_table(numbers: Collection[T]) -> Sequence[T]:
    """The values of a table; very many texts are a column, too."""
    if len(numbers) > MAX_OBJECTS and all(isinstance(value, str) for value in numbers):
        return Texts.of(numbers)  # type: ignore[arg-type, return-value]
    return tuple(numbers)


def number_by_first(values: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number different values in the order in which they first occur.

    Returns:
        The number of each row's value, int64 [N], and the first row of each number, int64 [U].
    """
    if len(values) == 0 or not ((ordered := np.sort(values))[1:] == ordered[:-1]).any():
        return np.arange(len(values)), np.arange(len(values))
    # np.unique needs a stable sort for this, which takes five times as long.
    order = np.argsort(values)
    ordered = values[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    first = np.minimum.reduceat(order, begins)
    by_first = np.argsort(first)
    numbers = np.empty(len(first), np.int64)
    numbers[by_first] = np.arange(len(first))
    found = np.empty(len(values), np.int64)
    found[order] = np.repeat(numbers, np.diff(begins, append=len(values)))
    return found, first[by_first]


def different(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the different values, sorted; np.unique takes ten times as long for millions of them."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _smallest(number: int, *kinds: Any) -> Any:
    return next((kind for kind in kinds if number <= np.iinfo(kind).max), kinds[-1])


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
