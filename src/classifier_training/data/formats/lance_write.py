"""Writes a data set as a Lance set: a row an image, with the bytes of its file unchanged.

Files of rows are written first and become a version by one commit at the end, so that a writer that is killed leaves no
version. Those that it has completed are listed in the cache folder, and the next writer of the same rows uses them.
A set that is there already is brought up to the data: new images are added, images that are gone or have changed are
removed from the new version, and earlier versions stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from classifier_training.core.errors import UserError, first_line
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_header
from classifier_training.core.runtime import cache_dir, num_cores
from classifier_training.core.storage.lance_rows import import_lance, key_of, keys_of, open_set, storage_options
from classifier_training.core.storage.places import known, read_many
from classifier_training.core.types import TEST
from classifier_training.data.formats.lance import schema
from classifier_training.data.index import absolute_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from classifier_training.core.images import Header
    from classifier_training.data.index import SampleIndex

log = logging.getLogger(__name__)

FORMAT = "2.1"
"""Of Lance's files. With 2.1 an image of a row is one read; the format that Lance writes by itself changes with it."""

BATCH_BYTES = 16 * 2**20
FILE_BYTES = 512 * 2**20
"""Of images in a batch in memory, and in a file of rows: what a killed writer does again at most."""

CHUNK = 128
"""Images that are read at a time."""


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


@dataclass(frozen=True)
class WrittenSet:
    """What a set holds after it was written.

    Args:
        root: of the set.
        version: the newest; the one before where nothing was to be done.
        num_rows: of this version.
        num_new: rows that were written now.
        num_removed: rows of the version before that this one has no more.
        num_bytes: of the images that were written now.
        num_resumed: of the new rows, those that an earlier writer had completed.
        unreadable: errors of the files that are left out.
    """

    root: str
    version: int
    num_rows: int
    num_new: int
    num_removed: int = 0
    num_bytes: int = 0
    num_resumed: int = 0
    unreadable: tuple[UnreadableImageError, ...] = ()


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


def write_set(
    root: str,
    index: SampleIndex,
    *,
    on_error: Literal["raise", "skip"],
    advance: Callable[[int], None] = lambda _: None,
) -> WrittenSet:
    """Write a data set, or bring a set that is there up to it.

    Memory holds the table of rows without the images, and about two batches of images.

    Args:
        root: of the set: a local path or a URL.
        index: the data.
        on_error: at a file that is no image, raise stops and skip leaves it out.
        advance: called with the number of rows done since the last call.

    Raises:
        UserError: when a file cannot be read, the set cannot be written, or it holds other data.
    """
    writer = _Writer(root, index, on_error, advance)
    try:
        return writer.write()
    except (ValueError, OSError, RuntimeError) as error:
        if writer.failure is not None:
            # Lance makes a text of an error that is raised while it asks for rows.
            raise writer.failure from None
        raise UserError(
            f"{root}: cannot be written ({first_line(error)})",
            "a disk or bucket with enough space that may be written to",
            "fix it and type the command again: what is written is kept",
        ) from error


@dataclass
class _Writer:
    root: str
    index: SampleIndex
    on_error: Literal["raise", "skip"]
    advance: Callable[[int], None]
    failure: BaseException | None = None
    unreadable: list[UnreadableImageError] = field(default_factory=list)
    num_bytes: int = 0

    def write(self) -> WrittenSet:
        lance = import_lance()
        rows = rows_of(self.index)
        _refuse_same_keys(rows)
        old = _existing(self.root)
        if old is None:
            fragments, num_resumed = self._fragments(rows, np.arange(len(rows)), None)
            if not fragments:
                raise UserError(f"{self.index.root}: no image can be read", "at least one image", "check the files")
            done = lance.LanceDataset.commit(
                self.root,
                lance.LanceOperation.Overwrite(schema(), fragments),
                storage_options=storage_options(self.root),
                commit_message="prepare",
            )
            number = sum(fragment.physical_rows for fragment in fragments)
            self._journal.unlink(missing_ok=True)
            return self._result(done, num_new=number, num_removed=0, num_resumed=num_resumed)
        return self._update(lance, old, rows)

    def _result(self, done: Any, *, num_new: int, num_removed: int, num_resumed: int) -> WrittenSet:
        return WrittenSet(
            self.root, done.version, done.count_rows(), num_new, num_removed, self.num_bytes, num_resumed,
            tuple(self.unreadable),
        )  # fmt: skip

    # What is new, and what is not

    def _update(self, lance: Any, old: Any, rows: Sequence[Row]) -> WrittenSet:
        present = old.to_table(columns=["path", "label", *SMALL, "num_bytes", "sha256", "stamp"], with_row_id=True)
        places = self._kept(present, rows)
        kept = places >= 0
        if not kept.any():
            raise UserError(
                f"{self.root} holds other data: none of its {len(present):,} images is in {self.index.root}",
                "the data that it was written from, with more images",
                "another name: output=….lance",
            )
        fragments, num_resumed = self._fragments(rows, np.flatnonzero(~kept), old)
        is_gone = np.ones(len(present), bool)
        is_gone[places[kept]] = False
        changed, fields = self._changed_fragments(old, present, rows, places, is_gone)
        number = sum(fragment.physical_rows for fragment in fragments)
        removed = [
            fragment.fragment_id for fragment in old.get_fragments() if changed.get(fragment.fragment_id, 0) is None
        ]
        if not fragments and not changed:
            return self._result(old, num_new=0, num_removed=0, num_resumed=0)
        done = lance.LanceDataset.commit(
            self.root,
            lance.LanceOperation.Update(
                removed_fragment_ids=removed,
                updated_fragments=[fragment for fragment in changed.values() if fragment is not None],
                new_fragments=fragments,
                fields_modified=sorted(fields),
                update_mode="rewrite_columns",
            ),
            read_version=old.version,
            storage_options=storage_options(self.root),
            commit_message="prepare",
        )
        self._journal.unlink(missing_ok=True)
        return self._result(done, num_new=number, num_removed=int(is_gone.sum()), num_resumed=num_resumed)

    def _kept(self, present: Any, rows: Sequence[Row]) -> NDArray[np.int64]:
        """Return for each row its place among those of the set, -1 where it is new or its file has changed."""
        paths, labels = present["path"].to_pylist(), present["label"].to_pylist()
        before = keys_of(Row(path, label).identity for path, label in zip(paths, labels, strict=True))
        order = np.argsort(before)
        wanted = keys_of(row.identity for row in rows)
        near = np.minimum(np.searchsorted(before[order], wanted), len(before) - 1)
        places = np.where(before[order][near] == wanted, order[near], -1)
        stamps, hashes = present["stamp"].to_pylist(), present["sha256"]
        doubtful = [
            number
            for number in np.flatnonzero(places >= 0).tolist()
            if not rows[number].stamp or stamps[places[number]] != rows[number].stamp
        ]
        for number, content in self._contents(rows, iter(doubtful)):
            # Reading it for the new row will report an error.
            if isinstance(content, UnreadableImageError) or content.sha256 != hashes[int(places[number])].as_py():
                places[number] = -1
        return places

    def _changed_fragments(
        self, old: Any, present: Any, rows: Sequence[Row], places: NDArray[np.int64], is_gone: NDArray[np.bool_]
    ) -> tuple[dict[int, Any], set[int]]:
        """Return the metadata of the set's files of rows that change, None for one without rows; and which columns."""
        import pyarrow as pa

        kept = np.flatnonzero(places >= 0)
        new_place = np.full(len(present), -1)
        new_place[places[kept]] = kept
        identifiers = present["_rowid"].to_numpy()
        files = identifiers >> np.uint64(32)
        found: dict[int, Any] = {}
        fields: set[int] = set()
        for fragment in old.get_fragments():
            here = np.flatnonzero(files == fragment.fragment_id)
            staying = here[~is_gone[here]]
            if not len(staying):
                found[fragment.fragment_id] = None
                continue
            before = present.select(SMALL).take(staying)
            after = pa.table(
                [
                    pa.array([rows[row].split for row in new_place[staying].tolist()]),
                    pa.array([rows[row].group for row in new_place[staying].tolist()]),
                    pa.array([rows[row].metadata for row in new_place[staying].tolist()]),
                    pa.array(new_place[staying]),
                ],
                schema=before.schema,
            )
            names = [name for name in SMALL if before[name].combine_chunks() != after[name].combine_chunks()]
            metadata = fragment.metadata
            if names:
                table = after.select(names).append_column("_rowid", pa.array(identifiers[staying]))
                metadata, modified = fragment.update_columns(table)
                fields |= set(modified)
            if len(staying) < len(here):
                # By their places in this version, which no two rows share.
                gone = present["position"].to_numpy()[here[is_gone[here]]].tolist()
                metadata.deletion_file = fragment.delete(f"position IN ({','.join(map(str, gone))})").deletion_file
            if names or len(staying) < len(here):
                found[fragment.fragment_id] = metadata
        return found, fields

    # New rows

    def _fragments(self, rows: Sequence[Row], chosen: NDArray[np.int64], old: Any) -> tuple[list[Any], int]:
        """Write the chosen rows into files; returns the metadata of these, and how many rows were there already."""
        lance = import_lance()
        from lance.fragment import write_fragments

        fragments, done = self._resumed(lance, rows, chosen, 0 if old is None else old.version)
        num_resumed = sum(fragment.physical_rows for fragment in fragments)
        self.advance(len(rows) - len(chosen) + done)
        if num_resumed:
            log.info("%s: %d images were written before", self.root, num_resumed)
        batches = self._batches(rows, iter(chosen[done:].tolist()))
        if done == len(chosen):
            return fragments, num_resumed
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        with self._journal.open("a" if done else "w", encoding="utf-8") as journal:
            while first := next(batches, None):
                begun, places, num_unreadable = done, first.places[:], len(self.unreadable)
                written = write_fragments(
                    self._until(FILE_BYTES, first, batches, places),
                    self.root if old is None else old,
                    schema=schema(),
                    mode="create" if old is None else "append",
                    max_rows_per_file=2**31,
                    max_bytes_per_file=2**40,
                    data_storage_version=FORMAT,
                    storage_options=storage_options(self.root),
                )
                if self.failure is not None:
                    raise self.failure
                fragments += written
                done = begun + len(places)
                facts = {
                    "base": 0 if old is None else old.version,
                    "num_rows": len(places),
                    "rows": self._digest(rows, chosen[begun:done]),
                    "fragments": [fragment.to_json() for fragment in written],
                    "unreadable": [(error.path, error.reason) for error in self.unreadable[num_unreadable:]],
                }
                journal.write(json.dumps(facts) + "\n")
                journal.flush()
        return fragments, num_resumed

    def _until(self, limit: int, first: _Batch, batches: Iterator[_Batch], places: list[int]) -> Any:
        """Return an Arrow reader of batches up to a number of bytes, and add the places of their rows."""
        import pyarrow as pa

        def read() -> Iterator[Any]:
            size = first.num_bytes
            yield first.rows
            try:
                while size < limit and (batch := next(batches, None)):
                    size += batch.num_bytes
                    places.extend(batch.places)
                    yield batch.rows
            except BaseException as error:
                self.failure = error
                raise

        return pa.RecordBatchReader.from_batches(schema(), read())

    def _batches(self, rows: Sequence[Row], chosen: Iterator[int]) -> Iterator[_Batch]:
        import pyarrow as pa

        columns: dict[str, list[Any]] = {name: [] for name in schema().names}
        places: list[int] = []
        size = 0

        def batch() -> _Batch:
            arrays = [pa.array(columns[kind.name], kind.type) for kind in schema()]
            return _Batch(pa.record_batch(arrays, schema=schema()), places[:], size)

        for place, content in self._contents(rows, chosen):
            places.append(place)
            if isinstance(content, UnreadableImageError):
                if self.on_error == "raise":
                    raise content
                self.unreadable.append(content)
                continue
            row = rows[place]
            values = (
                row.path, row.label, row.split, row.group, row.metadata, place, key_of(row.path), content.image,
                len(content.image), *content.header, content.sha256, row.stamp,
            )  # fmt: skip
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            size += len(content.image)
            if size >= BATCH_BYTES:
                self.num_bytes += size
                yield batch()
                places, size = [], 0
                for column in columns.values():
                    column.clear()
        if places:
            self.num_bytes += size
            yield batch()

    def _contents(
        self, rows: Sequence[Row], chosen: Iterator[int]
    ) -> Iterator[tuple[int, _Content | UnreadableImageError]]:
        """Yield the chosen rows with their images; the next ones are read meanwhile."""
        chunks = iter(lambda: list(islice(chosen, CHUNK)), [])
        prefix = absolute_prefix(self.index.root)
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(num_cores()) as pool:
            waiting: deque[tuple[list[int], Future[list[bytes | OSError]]]] = deque()
            for chunk in chain(chunks, [[]]):
                if chunk:
                    waiting.append((chunk, reader.submit(read_many, [prefix + rows[place].path for place in chunk])))
                if waiting and (len(waiting) > 1 or not chunk):
                    places, contents = waiting.popleft()
                    paths = [prefix + rows[place].path for place in places]
                    yield from zip(places, pool.map(_examined, paths, contents.result()), strict=True)
                    self.advance(len(places))

    # Going on after a writer was killed

    @property
    def _journal(self) -> Path:
        """The list of files of rows that are complete and belong to no version yet."""
        return cache_dir() / "lance" / f"{hashlib.sha256(self.root.encode()).hexdigest()[:16]}.jsonl"

    def _digest(self, rows: Sequence[Row], chosen: NDArray[np.int64]) -> str:
        found = hashlib.sha256()
        for place in chosen.tolist():
            found.update(repr((place, *rows[place])).encode())
        return found.hexdigest()

    def _resumed(self, lance: Any, rows: Sequence[Row], chosen: NDArray[np.int64], base: int) -> tuple[list[Any], int]:
        """Return the files of rows that a killed writer has completed, as far as these rows are the same."""
        from lance.file import LanceFileSession

        fragments: list[Any] = []
        done = 0
        try:
            lines = self._journal.read_text(encoding="utf-8").splitlines()
        except OSError:
            return [], 0
        session = LanceFileSession(f"{self.root}/data", storage_options=storage_options(self.root))
        for line in lines:
            try:
                facts = json.loads(line)
            except ValueError:  # the writer was killed within the line
                break
            end = done + facts["num_rows"]
            if facts["base"] != base or facts["rows"] != self._digest(rows, chosen[done:end]):
                break
            found = [lance.FragmentMetadata.from_json(json.dumps(item)) for item in facts["fragments"]]
            if not all(session.contains(file.path) for fragment in found for file in fragment.files):
                break
            fragments += found
            self.unreadable += [UnreadableImageError(path, reason) for path, reason in facts["unreadable"]]
            done = end
        return fragments, done


class _Batch(NamedTuple):
    rows: Any
    places: list[int]
    num_bytes: int


class _Content(NamedTuple):
    image: bytes
    header: Header
    sha256: bytes


def _examined(path: str, content: bytes | OSError) -> _Content | UnreadableImageError:
    try:
        header = read_header(path, content)
    except UnreadableImageError as error:
        return error
    assert isinstance(content, bytes)
    return _Content(content, header, hashlib.sha256(content).digest())


def _existing(root: str) -> Any:
    """Open the newest version of a set; None where there is none yet."""
    try:
        return open_set(root)
    except UserError as error:
        if "there is no Lance set" in error.came:
            return None
        raise


def _refuse_same_keys(rows: Sequence[Row]) -> None:
    """Raise when two paths have one key, which among two million happens once in ten million data sets."""
    keys = np.sort(keys_of({row.path for row in rows}))
    if (keys[1:] == keys[:-1]).any():
        raise UserError("two paths have the same 64-bit hash", "different hashes", "rename one of the images")
