"""The files of a store: shards of pixels, and beside each the list of its entries.

A shard is written under a temporary name, fsynced and renamed; its list follows in the same way and marks it as
complete. Readers go by the lists alone, so nothing half-written is ever read, and whatever a killed writer finished
stays.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.run_dir import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ENTRY = np.dtype(
    [
        ("path", "S16"), ("content", "S16"), ("size", "<i8"), ("mtime_ns", "<i8"),
        ("shard", "<i4"), ("offset", "<i8"), ("num_bytes", "<i8"), ("height", "<i4"), ("width", "<i4"),
    ]
)  # fmt: skip
"""One image: hashes of the file's absolute path and content, its size and time, and where its pixels are."""

SHARD_BYTES = 64 * 2**20
SHARD_ENTRIES = 1024
"""A writer that is killed loses at most so much."""


def describe_files(paths: Sequence[str]) -> NDArray[np.void]:
    """Return entries with path, size and time filled in [N]; the size of a file that is gone is -1."""
    found = np.zeros(len(paths), ENTRY)
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path object each would double the time
            size, mtime_ns = status.st_size, status.st_mtime_ns
        except OSError:
            size, mtime_ns = -1, 0
        found["path"][row] = blake2b(path.encode(errors="surrogateescape"), digest_size=16).digest()
        found["size"][row], found["mtime_ns"][row] = size, mtime_ns
    return found


class ShardWriter:
    """Writes one shard; there may be several writers in one folder.

    Args:
        folder: of the store.
        number: place in the order of shards; of two entries for one file the later counts.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._target = folder / f"{number:06d}-{secrets.token_hex(3)}.pixels"
        self._temporary = self._target.with_suffix(".tmp")
        self._file = self._temporary.open("wb")
        self._entries: list[NDArray[np.void]] = []
        self.num_bytes = 0

    @property
    def full(self) -> bool:
        """Whether it is time for the next one."""
        return self.num_bytes >= SHARD_BYTES or len(self._entries) >= SHARD_ENTRIES

    def add(self, entry: NDArray[np.void], data: bytes | memoryview) -> None:
        """Append an image; its place is filled in.

        Raises:
            OSError: when there is no room.
        """
        entry = entry.copy()
        entry["offset"], entry["num_bytes"] = self.num_bytes, len(data)
        self._file.write(data)
        self.num_bytes += len(data)
        self._entries.append(entry)

    def commit(self) -> None:
        """Make the shard part of the store.

        Raises:
            OSError: when there is no room.
        """
        if not self._entries:
            self.discard()
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._target)
        with atomic_path(self._target.with_suffix(".entries")) as temporary, temporary.open("wb") as file:
            np.save(file, np.stack(self._entries))

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # what is left in the buffer may find no room either
            self._file.close()
        for path in (self._temporary, self._target):
            path.unlink(missing_ok=True)


def shard_names(folder: Path) -> list[str]:
    """Names of the complete shards, in their order."""
    return sorted(path.stem for path in folder.glob("[0-9]*.entries"))


def next_number(folder: Path) -> int:
    """Number for a shard that comes after all that are complete."""
    names = shard_names(folder)
    return int(names[-1].partition("-")[0]) + 1 if names else 0


def read_entries(folder: Path, names: Sequence[str]) -> NDArray[np.void]:
    """Return the entries of the shards, sorted by path, the latest of each path alone."""
    parts = []
    for number, name in enumerate(names):
        with (folder / f"{name}.entries").open("rb") as file:
            # Not by np.load, which opens archives, too.
            part = np.lib.format.read_array(file, allow_pickle=False)
        part["shard"] = number
        parts.append(part)
    every = np.concatenate(parts) if parts else np.zeros(0, ENTRY)
    every = every[np.argsort(every["path"], kind="stable")]
    last = np.ones(len(every), bool)
    last[:-1] = every["path"][1:] != every["path"][:-1]
    return np.asarray(every[last])


def clean(folder: Path) -> None:
    """Remove what a killed writer left half done; only for who holds the writers' lock."""
    complete = set(shard_names(folder))
    for path in folder.iterdir():
        if path.suffix == ".tmp" or (path.suffix == ".pixels" and path.stem not in complete):
            path.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a store's folder."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
