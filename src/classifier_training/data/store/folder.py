"""One store: the pixels of one data set, in one form."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.processes import hold
from classifier_training.data.pixel_format import decode
from classifier_training.data.store.shards import (
    ENTRY,
    ShardWriter,
    clean,
    describe_files,
    hash_content,
    hash_path,
    next_number,
    read_entries,
    shard_names,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.data.pixel_format import PixelFormat

log = logging.getLogger(__name__)

USE_LOCK = "use.lock"
"""File of a folder that each process that uses it holds."""


class StoreFolder:
    """Reads one store, and writes to it unless another process does.

    Args:
        folder: created if it does not exist.
        pixel_format: form of the pixels.
        limit_bytes: most bytes that may be added.
        wait: whether to wait until another writer ends; otherwise this one only reads.

    Attributes:
        writes: whether images can be added.
    """

    def __init__(
        self, folder: Path, pixel_format: PixelFormat, *, limit_bytes: float = float("inf"), wait: bool = False
    ) -> None:
        self.folder = folder
        self.pixel_format = pixel_format
        self.limit_bytes = limit_bytes
        self._added_bytes = 0
        self._writer: ShardWriter | None = None
        self._use, self._build = ExitStack(), ExitStack()
        self._use.enter_context(in_use(folder))
        self.writes = self._build.enter_context(hold(folder / "build.lock", wait=wait))
        if self.writes:
            clean(folder)
        self.refresh()

    def __getstate__(self) -> dict[str, object]:
        # A worker process opens its own memory maps and never writes.
        return {
            **self.__dict__, "_maps": [None] * len(self._names), "_writer": None, "writes": False,
            "_build": ExitStack(), "_use": ExitStack(),
        }  # fmt: skip

    def refresh(self) -> None:
        """Read what has been committed since."""
        self._names = shard_names(self.folder)
        self._maps: list[NDArray[np.uint8] | None] = [None] * len(self._names)

    def locate(self, paths: Sequence[str], described: NDArray[np.void] | None = None) -> NDArray[np.void]:
        """Return each file's entry [N]; its shard is -1 where the file is new or has changed.

        Args:
            paths: of the files.
            described: what `describe_files` gave for them a moment ago.
        """
        wanted = describe_files(paths) if described is None else described.copy()
        wanted["shard"] = -1
        # Not kept: they would take 76 bytes an image in every process.
        entries = read_entries(self.folder, self._names)
        if len(entries):
            place = np.minimum(np.searchsorted(entries["path"], wanted["path"]), len(entries) - 1)
            same = wanted["size"] >= 0
            for name in ("path", "size", "mtime_ns"):
                same &= entries[name][place] == wanted[name]
            wanted[same] = entries[place[same]]
            self._find_moved(wanted, paths, entries)
        return wanted

    def _find_moved(self, wanted: NDArray[np.void], paths: Sequence[str], entries: NDArray[np.void]) -> None:
        """Recognize moved files, such as into another class folder, by size, time and then content."""
        stamps = ["size", "mtime_ns"]
        missing = np.flatnonzero((wanted["shard"] < 0) & (wanted["size"] >= 0))
        known = {tuple(stamp) for stamp in entries[stamps].tolist()} if len(missing) else set()
        alike = [row for row in missing.tolist() if tuple(wanted[stamps][row].tolist()) in known]
        by_content = {entry["content"]: number for number, entry in enumerate(entries)} if alike else {}
        for row in alike:
            try:
                number = by_content.get(np.bytes_(hash_content(paths[row])))
            except OSError:  # decoding the file will report the error
                continue
            if number is not None:
                path = wanted["path"][row]
                wanted[row] = entries[number]
                wanted["path"][row] = path

    def pixels(self, entry: NDArray[np.void]) -> NDArray[np.uint8]:
        """Return the pixels of a located entry, uint8 [h, w, 3]; a view of the file unless they are JPEG."""
        start, number = int(entry["offset"]), int(entry["num_bytes"])
        data = self.shard(int(entry["shard"]))[start : start + number]
        if self.pixel_format.jpeg:
            return decode(data.tobytes())
        return data.reshape(int(entry["height"]), int(entry["width"]), 3)

    def shard(self, number: int) -> NDArray[np.uint8]:
        """Return a shard's bytes, memory-mapped at first use."""
        found = self._maps[number]
        if found is None:
            # Copy on write: torch wants writable memory, and the file must not change.
            found = self._maps[number] = np.memmap(self.folder / f"{self._names[number]}.pixels", np.uint8, "c")
        return found

    def add(self, path: str, entry: NDArray[np.void], pixels: NDArray[np.uint8]) -> None:
        """Write an image; it can be read after `commit`. When the disk is full, writing stops with a warning.

        Args:
            path: of the file.
            entry: its size and time before it was decoded, so that a file that changes meanwhile is decoded again.
            pixels: uint8 [h, w, 3].
        """
        if not self.writes:
            return
        data = self.pixel_format.encoded(pixels)
        if self._added_bytes + len(data) > self.limit_bytes:
            self._stop("the limit data.store_gb is reached")
            return
        entry = entry.copy()
        entry["height"], entry["width"] = pixels.shape[:2]
        try:
            entry["content"] = hash_content(path)
            if self._writer is None:
                self._writer = ShardWriter(self.folder, next_number(self.folder))
            self._writer.add(entry, data)
            self._added_bytes += len(data)
            if self._writer.full:
                self._writer.commit()
                self._writer = None
        except OSError as error:
            self._stop(error.strerror or str(error))

    def commit(self) -> None:
        """Add what was written to the store."""
        try:
            if self._writer is not None:
                self._writer.commit()
        except OSError as error:
            self._stop(error.strerror or str(error))
        self._writer = None
        self.refresh()

    def close(self) -> None:
        """Commit, and release the locks of writing and use."""
        if self._writer is not None:
            self.commit()
        self._let_others_write()
        self._use.close()

    def _stop(self, reason: str) -> None:
        log.warning("%s: no more images are stored: %s; training continues without the store", self.folder, reason)
        if self._writer is not None:
            self._writer.discard()
        self._writer = None
        self._let_others_write()

    def _let_others_write(self) -> None:
        self.writes = False
        self._build.close()


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Make a folder if there is none, and hold it: eviction spares what is in use, and takes the oldest first."""
    with ExitStack() as held:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(hold(folder / USE_LOCK, shared=True))
                os.utime(folder)
                break
            except FileNotFoundError:  # another process is removing it
                held.close()
        yield


PLACE = np.dtype([("shard", "<i4"), ("offset", "<u4"), ("num_bytes", "<u4"), ("height", "<i4"), ("width", "<i4")])
"""What is kept of an entry while a run reads it. A shard ends after the image that makes it longer than 64 MiB."""


class TableStore:
    """A store, indexed by the rows of one table.

    Args:
        folder: the store.
        paths: of the table's files [N].
        described: what `describe_files` gave for them a moment ago.
    """

    def __init__(self, folder: StoreFolder, paths: Sequence[str], described: NDArray[np.void] | None = None) -> None:
        self.folder = folder
        self._paths = paths
        self._pending: set[int] = set()
        self.refresh(described)

    def refresh(self, described: NDArray[np.void] | None = None) -> None:
        """Update which rows are stored."""
        found = self.folder.locate(self._paths, described)
        self._rows = found[list(PLACE.names or ())].astype(PLACE)
        # Size and time before decoding, of the files that may be written.
        self._stamps = found[["size", "mtime_ns"]].copy() if self.folder.writes and (found["shard"] < 0).any() else None
        self._pending.clear()

    def __getstate__(self) -> dict[str, object]:
        # A worker process never writes.
        return {**self.__dict__, "_stamps": None}

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows are stored [N]."""
        return np.asarray(self._rows["shard"][rows] >= 0)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Pixels of a stored row."""
        return self.folder.pixels(self._rows[row])

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8] | None:
        """Read stored rows at once: uint8 [B, h, w, 3]; None if their shapes differ."""
        found = self._rows[rows]
        if self.folder.pixel_format.jpeg or not len(found) or (found["num_bytes"] != found["num_bytes"][0]).any():
            return None
        height, width, number = int(found["height"][0]), int(found["width"][0]), int(found["num_bytes"][0])
        if (found["height"] != height).any() or (found["offset"] % number).any():
            return None
        out = np.empty((len(rows), height, width, 3), np.uint8)
        for shard in np.unique(found["shard"]):
            chosen = np.flatnonzero(found["shard"] == shard)
            every = self.folder.shard(int(shard))
            every = every[: len(every) // number * number].reshape(-1, height, width, 3)
            places = found["offset"][chosen].astype(np.int64) // number
            out[chosen] = every[places]
        return out

    def add(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """Write a row, unless it is stored already."""
        if self._stamps is None or not self.folder.writes or row in self._pending or self._rows["shard"][row] >= 0:
            return
        entry = np.zeros((), ENTRY)
        entry["path"] = hash_path(self._paths[row])
        entry["size"], entry["mtime_ns"] = self._stamps[row]
        if entry["size"] >= 0:  # otherwise the pixels would never be recognized
            self._pending.add(row)
            self.folder.add(self._paths[row], entry, pixels)

    def commit(self) -> None:
        """Make what was added readable."""
        if self._pending:
            self.folder.commit()
            self.refresh()
