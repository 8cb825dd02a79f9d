"""What is kept on this disk of remote files: what was listed of each, and contents, up to a limit.

Both are shared by all processes of this machine. A content is found by its URL and version, so that a changed file is
fetched again; those that were used least recently are removed first.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from classifier_training.core.files import remove_oldest, size_bytes
from classifier_training.core.processes import hold
from classifier_training.core.runtime import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import IO

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

UNKNOWN = np.iinfo(np.uint64).max
"""Stands for a size that a listing does not state."""

MAX_FOLDERS = 100_000
"""Folders whose listing is remembered by a process; there may be one for each file."""

SHARE_OF_FREE_DISK = 0.25
"""Part of the free disk for contents if no limit is set. Decoded pixels may take half."""

STEP = 0.05
"""Share of the limit that a process writes before it looks whether something must go."""

USED_SECONDS = 3600.0
"""Age of the time of last use from which on it is written anew."""


def _folder() -> Path:
    return cache_dir() / "remote"


def hash_text(text: str) -> int:
    """Hash a URL or version to a number below 2^63; 0 for an empty text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1 if text else 0


class Listed(NamedTuple):
    """What a listing says of a file.

    Args:
        num_bytes: its size; None when unknown.
        version: hash of its ETag or what takes its place; 0 when unknown.
    """

    num_bytes: int | None = None
    version: int = 0


class Listings:
    """The listings of this machine: a table for each folder that was listed, of 24 bytes a file."""

    def __init__(self) -> None:
        self._tables: dict[str, NDArray[np.uint64] | None] = {}

    def save(self, root: str, files: Iterable[tuple[str, int | None, str]]) -> None:
        """Save a listing for all processes of this machine.

        Args:
            root: URL of the folder.
            files: URL, size and version of each file below it.
        """
        rows = np.fromiter(
            (
                (hash_text(url), UNKNOWN if num_bytes is None else num_bytes, hash_text(version))
                for url, num_bytes, version in files
            ),
            dtype=np.dtype((np.uint64, 3)),
        )
        path = self._file(root)
        with _replaced(path) as file:
            # A row each for hashes, sizes and versions, because a search wants its numbers side by side.
            np.save(file, np.ascontiguousarray(rows[np.argsort(rows[:, 0])].T))
        self._tables.clear()
        _mapped.cache_clear()

    def find(self, urls: Sequence[str]) -> list[Listed | None]:
        """Return what is known of each file; None for one that no listing has."""
        found: list[Listed | None] = [None] * len(urls)
        by_folder: dict[str, list[int]] = {}
        for place, url in enumerate(urls):
            by_folder.setdefault(url.rpartition("/")[0], []).append(place)
        for folder, places in by_folder.items():
            table = self._table(folder)
            if table is None or not table.shape[1]:
                continue
            wanted = np.array([hash_text(urls[place]) for place in places], np.uint64)
            columns = np.minimum(np.searchsorted(table[0], wanted), table.shape[1] - 1)
            for place, (key, num_bytes, version), want in zip(
                places, table[:, columns].T.tolist(), wanted.tolist(), strict=True
            ):
                if key == want:
                    found[place] = Listed(None if num_bytes == UNKNOWN else num_bytes, version)
        return found

    def _table(self, folder: str) -> NDArray[np.uint64] | None:
        """The newest listing of a folder or one above it."""
        if folder not in self._tables:
            if len(self._tables) >= MAX_FOLDERS:
                self._tables.clear()
            names = folder.split("/")
            above = ["/".join(names[:number]) for number in range(3, len(names) + 1)]
            times = [(path.stat().st_mtime_ns, path) for one in above if (path := self._file(one)).is_file()]
            self._tables[folder] = _mapped(max(times)[1]) if times else None
        return self._tables[folder]

    @staticmethod
    def _file(root: str) -> Path:
        return _folder() / "listings" / f"{hash_text(root.rstrip('/')):016x}.npy"


@functools.lru_cache(maxsize=16)
def _mapped(path: Path) -> NDArray[np.uint64]:
    table: NDArray[np.uint64] = np.load(path, mmap_mode="r")
    return table


listings = Listings()


def set_limit(gigabytes: float | None) -> None:
    """Set the disk space of contents on this machine; a share of what is free when None."""
    path = _folder() / "limit"
    path.parent.mkdir(parents=True, exist_ok=True)
    if gigabytes is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(str(int(gigabytes * 1e9)))
    contents.cache_clear()


class Contents:
    """Contents of remote files on this disk.

    Args:
        folder: of the cache.
        limit: bytes that they may take, which each process that writes may pass by a twentieth; a share of the disk
            when None.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        self._folder = folder
        self._limit = limit
        self._may_write = 0.0  # so that the first writing removes what others left over
        self._is_off = limit == 0

    def get(self, url: str, listed: Listed | None) -> bytes | None:
        """Return a content; None where it is not kept."""
        if listed is None or not listed.version:
            return None
        path = self._file(url, listed.version)
        try:
            with path.open("rb") as file:
                content = file.read()
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        if listed.num_bytes not in (None, len(content)):
            return None  # cut by a crash of the machine
        if age > USED_SECONDS:
            with suppress(OSError):
                os.utime(path)
        return content

    def put(self, url: str, listed: Listed | None, content: bytes) -> None:
        """Keep a content, if its version is known; a disk that cannot take it is named once and left alone."""
        if self._is_off or listed is None or not listed.version:
            return
        path = self._file(url, listed.version)
        try:
            if len(content) > self._may_write:
                self._may_write = self._trim()
            if len(content) > self._may_write:
                return
            with _replaced(path) as file:
                file.write(content)
            self._may_write -= len(content)
        except OSError as error:
            self._is_off = True
            log.warning("%s: %s; remote files are not kept there, and are fetched again whenever they are needed",
                        self._folder, error.strerror or error)  # fmt: skip

    def _file(self, url: str, version: int) -> Path:
        name = blake2b(f"{url}\n{version}".encode(), digest_size=16).hexdigest()
        return self._folder / name[:2] / name[2:]

    def _trim(self) -> float:
        """Remove what was used least recently until the limit is kept; return what may be written before the next."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with hold(self._folder / "trim.lock"):
            free = shutil.disk_usage(self._folder).free
            limit = self._limit or SHARE_OF_FREE_DISK * (free + size_bytes(self._folder))
            step = limit * STEP
            remove_oldest(self._folder.glob("[0-9a-f][0-9a-f]/*"), limit=limit - step)
        return step


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file, which takes the name when the block ends well, and else is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # No fsync, unlike `run_dir.atomic_path`: what is lost is fetched again.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        temporary = Path(file.name)
        try:
            yield file
            file.close()
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@functools.cache
def contents() -> Contents:
    """Open the contents that this machine keeps."""
    try:
        limit = int((_folder() / "limit").read_text())
    except (OSError, ValueError):
        limit = None
    return Contents(_folder() / "contents", limit)
