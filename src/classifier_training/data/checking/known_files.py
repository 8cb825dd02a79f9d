"""What was read of the files of a data set, kept in the cache folder: a second start reads only those that changed.

A local file is unchanged while its size and the times of its last modification and change of status are the same. The
time of a folder does not tell that a file in it was written over, so every local file is asked for its status; none is
opened. Size and version of a remote file are those of the listing, which takes no request a file. A Lance set states
all of it, and nothing is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import PIL

from classifier_training.core.columns import Texts
from classifier_training.core.errors import UserError, plural
from classifier_training.core.files import remove_oldest
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_start
from classifier_training.core.processes import hold
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import cache_dir, num_cores
from classifier_training.core.storage.places import is_local, kind_of_place, known, read_many
from classifier_training.data.checking.scan import hash_file
from classifier_training.data.index import absolute_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

T = TypeVar("T")

ROW = np.dtype(
    [
        ("size", "<i8"), ("version", "<u8"), ("known", "u1"), ("width", "<i4"), ("height", "<i4"),
        ("start", "<u8", 2), ("content", "<u8", 2),
    ]
)  # fmt: skip
"""One file: its size in bytes (-1 where there is no such file) and version, what is known of it, width and height as
stored, and hashes of its first bytes and of all of them."""

HEADER, LACKS_RANGE, IS_CUT, START, CONTENT = 1, 2, 4, 8, 16
"""Bits of `known`: the header was read, with two of its statements; the hashes were taken."""

START_BYTES = 4096
"""First bytes by which files of the same size are compared before they are read whole."""

FORMAT = f"1, Pillow {PIL.__version__}"
"""A file of the cache that was written by another version is not used."""

FRESH_NS = 2_000_000_000
"""A file that changed so short a time ago may change again without another time, so it is not remembered."""

MAX_BYTES = 2 * 2**30
"""Most bytes of all files of the cache; those that were not used for the longest time are removed first."""

CHUNK = 256
"""Files that a thread takes at a time."""

NUM_STAT_THREADS = 16
"""More than there are cores: on a network's file system each waits for an answer."""

MANY = 20_000
"""Files of which a person is told, and of which no two processes read the same at once."""

SAVE_SECONDS = 120.0
"""Most seconds of reading that a killed process loses."""


class FileTable:
    """The files of one data set, with what is known of them.

    Args:
        root: folder that the paths are relative to; None for absolute paths.
        paths: of the files; one that is named twice counts once.

    Attributes:
        paths: distinct [N].
        rows: what is known of each, `ROW` [N].
    """

    def __init__(self, root: Path | None, paths: Iterable[str]) -> None:
        named = Texts.of(paths)
        self.root = root
        self.paths = named if named.is_distinct() else named[named.numbers()[1]]
        self._absolute = self.paths if root is None else self.paths.prefixed(absolute_prefix(root))
        each = any(".lance" in path for path in self._absolute)
        self._kinds = set(map(kind_of_place, self._absolute if each or root is None else [root]))
        self._stored = None if self._kinds == {"lance"} else _cache_file(root)
        self._time_ns = time.time_ns()
        self._is_fresh = np.zeros(len(self.paths), bool)
        self._has_news = False
        self.rows = np.zeros(len(self.paths), ROW)
        self._look()
        self._recall()

    def read_headers(self) -> dict[int, UnreadableImageError]:
        """Read the header of every file of which it is not known, in threads; pixels are not decoded.

        Returns:
            The errors of the files that cannot be read, by their rows. They are read again at every start, because a
            permission or an installed package may change the answer.
        """
        errors: dict[int, UnreadableImageError] = {}
        with ExitStack() as stack:
            missing = self._lacking(HEADER)
            if len(missing) >= MANY:
                missing = self._in_turn(stack)
            saved = time.monotonic()
            for rows, (found, failed) in self._read(self._headers, missing):
                for name in ("known", "width", "height", "start", "content", *(() if self._is_local else ("size",))):
                    self.rows[name][rows] = found[name]
                errors |= {int(rows[place]): error for place, error in failed.items()}
                self._has_news = True
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
            self.save()
        return errors

    def copies(self, rows: NDArray[np.int64] | None = None) -> list[tuple[str, ...]]:
        """Group files with the same bytes: compare sizes, then the first bytes, then hashes of all bytes.

        Files that vanish or cannot be read are left out; decoding them will report them.

        Args:
            rows: the files to compare; all when left out.
        """
        table = self.rows
        rows = np.arange(len(table)) if rows is None else rows
        rows = rows[table["size"][rows] >= 0]
        for kind, name in ((0, ""), (START, "start"), (CONTENT, "content")):
            if name:
                self._hash(rows, kind, name)
                rows = rows[table["known"][rows] & kind != 0]
            keys = table["size"][rows].astype(np.uint64)
            if name:
                keys ^= table[name][rows, 0]
            rows = rows[_occurs_again(keys)]
        self.save()
        groups: dict[tuple[int, bytes], list[str]] = {}
        sizes, contents = table["size"][rows].tolist(), table["content"][rows]
        for path, size, content in zip(self.paths[rows], sizes, contents, strict=True):
            groups.setdefault((size, content.tobytes()), []).append(path)
        return [tuple(group) for group in groups.values() if len(group) > 1]

    def save(self) -> None:
        """Keep what is known of the files that have not changed just now, with what was known of other files."""
        if not self._has_news or self._stored is None:
            return
        self._has_news = False
        kept = np.flatnonzero((self.rows["known"] != 0) & ~self._is_fresh)
        if not len(kept):
            return
        names = _joined(self.paths[kept])
        others, rows = self._others(len(kept))
        try:
            with atomic_path(self._stored) as temporary, temporary.open("wb") as file:
                np.savez(
                    file,
                    format=np.array(FORMAT),
                    paths=np.frombuffer(b"\0".join([names, *others]), np.uint8),
                    rows=np.concatenate([self.rows[kept], rows]),
                )
            remove_oldest(self._stored.parent.glob("*.npz"), limit=MAX_BYTES, keep=self._stored)
        except OSError as error:
            log.warning("%s: what was read of the files is not kept: %s", self._stored, error.strerror or error)

    @property
    def _is_local(self) -> bool:
        return self._kinds == {"local"}

    def _look(self) -> None:
        """Take each file's size and version."""
        if self._kinds == {"lance"}:
            for rows, found in self._read(_stated, np.arange(len(self.paths)), 1):
                self.rows[rows] = found
            return
        look = _status if self._is_local else _listed
        for rows, (sizes, versions, changed) in self._read(look, np.arange(len(self.paths)), NUM_STAT_THREADS):
            self.rows["size"][rows], self.rows["version"][rows] = sizes, versions
            self._is_fresh[rows] = changed > self._time_ns - FRESH_NS

    def _recall(self) -> None:
        """Take over what is stored of the files that have not changed."""
        names, stored = _read_stored(self._stored)
        if not len(stored):
            return
        wanted = _joined(self.paths)
        if wanted == names:
            mine = theirs = np.arange(len(stored))
        else:
            places = {name: place for place, name in enumerate(names.split(b"\0"))}
            found = (places.get(name, -1) for name in wanted.split(b"\0"))
            theirs = np.fromiter(found, np.int64, len(self.paths))
            mine = np.flatnonzero(theirs >= 0)
            theirs = theirs[mine]
        same = (self.rows["size"][mine] == stored["size"][theirs]) & (
            self.rows["version"][mine] == stored["version"][theirs]
        )
        self.rows[mine[same]] = stored[theirs[same]]

    def _others(self, most: int) -> tuple[list[bytes], NDArray[np.void]]:
        """Return what is stored of files that are not in this table, unless they are more than those that are."""
        names, stored = _read_stored(self._stored)
        wanted = _joined(self.paths)
        if names == wanted or not len(stored):
            return [], stored[:0]
        own = set(wanted.split(b"\0"))
        found = {place: name for place, name in enumerate(names.split(b"\0")) if name not in own}
        if len(found) > most:
            return [], stored[:0]
        return [*found.values()], stored[[*found]]

    def _in_turn(self, stack: ExitStack) -> NDArray[np.int64]:
        """Wait for another process that reads the same files; return the rows that are still to be read."""
        if self._stored is not None:
            lock = self._stored.with_suffix(".lock")
            with suppress(OSError):  # a file system without locks: both read
                if not stack.enter_context(hold(lock, wait=False)):
                    log.info("%s: another process reads the headers of these files; this one waits", self.root)
                    stack.enter_context(hold(lock))
                    self._recall()
        missing = self._lacking(HEADER)
        if len(missing) >= MANY:
            log.info("%s: reading the headers of %s, once", self.root, plural(len(missing), "file"))
        return missing

    def _lacking(self, kind: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.rows["known"] & kind == 0)

    def _hash(self, rows: NDArray[np.int64], kind: int, name: str) -> None:
        """Hash what is not hashed yet; the first bytes of a small file are all of them."""
        table = self.rows
        if kind == CONTENT:
            small = rows[table["size"][rows] <= START_BYTES]
            table["content"][small] = table["start"][small]
            table["known"][small] |= CONTENT
        hash_files = partial(_hashes, num_bytes=START_BYTES if kind == START else None)
        for chunk, (found, is_read) in self._read(hash_files, rows[table["known"][rows] & kind == 0]):
            table[name][chunk[is_read]] = found[is_read]
            table["known"][chunk[is_read]] |= kind
            self._has_news = True

    def _headers(self, paths: Sequence[str]) -> tuple[NDArray[np.void], dict[int, UnreadableImageError]]:
        """Return what the files' headers state, `ROW` [N], and the errors of unreadable files, by their places.

        Remote files are fetched whole, and so their sizes and hashes are known, too.
        """
        contents = [None] * len(paths) if self._is_local else read_many(paths)
        found = np.zeros(len(paths), ROW)
        errors: dict[int, UnreadableImageError] = {}
        for place, (path, content) in enumerate(zip(paths, contents, strict=True)):
            try:
                header, start = read_start(path, START_BYTES, content)
            except UnreadableImageError as error:
                errors[place] = error
                continue
            known = HEADER | START | LACKS_RANGE * header.lacks_range | IS_CUT * header.is_cut
            size, whole = 0, (0, 0)
            if isinstance(content, bytes):
                known, size, whole = known | CONTENT, len(content), _halves(content)
            found[place] = (size, 0, known, header.width, header.height, _halves(start), whole)
        return found, errors

    def _read(
        self, work: Callable[[Sequence[str]], T], rows: NDArray[np.int64], num_threads: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], T]]:
        # What is remote is fetched by many requests at a time as it is.
        number = num_threads or (2 * num_cores() if self._is_local else 2)
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        with ThreadPoolExecutor(number) as pool:
            yield from zip(chunks, pool.map(lambda chunk: work([*self._absolute[chunk]]), chunks), strict=True)


def _joined(paths: Texts) -> bytes:
    return "\0".join(paths).encode(errors="surrogatepass")


def _cache_file(root: Path | None) -> Path | None:
    try:
        folder = cache_dir() / "files"
        folder.mkdir(exist_ok=True)
    except (UserError, OSError) as error:
        log.info("what is read of the files is not kept: %s", error.came if isinstance(error, UserError) else error)
        return None
    return folder / f"{hashlib.blake2b(os.fsencode(root or b''), digest_size=8).hexdigest()}.npz"


def _read_stored(path: Path | None) -> tuple[bytes, NDArray[np.void]]:
    """Return the paths, separated by zeros, and rows that are stored; nothing where they cannot be used."""
    nothing = b"", np.zeros(0, ROW)
    if path is None or not path.exists():
        return nothing
    try:
        os.utime(path)
        with np.load(path, allow_pickle=False) as found:
            if str(found["format"]) != FORMAT:
                return nothing
            names, rows = found["paths"].tobytes(), found["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.info("%s cannot be used and is written anew: %s", path, error)
        return nothing
    return (names, rows) if rows.dtype == ROW and len(rows) == names.count(b"\0") + 1 else nothing


def _status(paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """Return size, version and time of the last change of status in ns; the size is -1 for what is no file."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - Path objects would double the time
        except (OSError, ValueError):
            found.append((-1, 0, 0))
            continue
        is_file = stat.S_ISREG(status.st_mode)
        found.append((status.st_size if is_file else -1, status.st_mtime_ns, status.st_ctime_ns))
    sizes, modified, changed = np.array(found, dtype=np.int64).reshape(-1, 3).T
    # An odd factor: for two different pairs of times the numbers differ but for an accident.
    versions = modified.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ changed.astype(np.uint64)
    return sizes, versions, changed


def _listed(paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """Return size and version as they were listed, and as time of change 0, or a late one where no version is known."""
    found = [(one.num_bytes or 0, one.version) if one else (0, 0) for one in known(paths)]
    sizes = np.array([size for size, _ in found], dtype=np.int64)
    versions = np.array([version for _, version in found], dtype=np.uint64)
    return sizes, versions, np.where(versions == 0, np.iinfo(np.int64).max, np.int64(0))


def _stated(paths: Sequence[str]) -> NDArray[np.void]:
    """Return what Lance sets state of their images, `ROW` [N]."""
    from classifier_training.core.storage.lance_rows import facts_of

    facts = facts_of(paths)
    found = np.zeros(len(paths), ROW)
    for name, stated in (("size", "num_bytes"), ("width", "width"), ("height", "height")):
        found[name] = facts[stated]
    found["start"], found["content"] = np.split(
        np.frombuffer(facts["sha256"].tobytes(), "<u8").reshape(-1, 4), 2, axis=1
    )
    known = HEADER | START | CONTENT | LACKS_RANGE * facts["lacks_range"] | IS_CUT * facts["is_cut"]
    found["known"] = np.where(facts["num_bytes"] < 0, 0, known)
    return found


def _hashes(paths: Sequence[str], num_bytes: int | None) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hash the first bytes of each file, or all; return the hashes, uint64 [N, 2], and which files could be read."""
    found, is_read = np.zeros((len(paths), 2), np.uint64), np.ones(len(paths), bool)
    contents = [None] * len(paths) if all(map(is_local, paths)) else read_many(paths)
    for place, (path, content) in enumerate(zip(paths, contents, strict=True)):
        try:
            if isinstance(content, OSError):
                raise content
            if content is not None:
                found[place] = _halves(content[:num_bytes])
            elif num_bytes is None:
                found[place] = np.frombuffer(hash_file(path), "<u8")
            else:
                with open(path, "rb") as file:  # noqa: PTH123 - Path objects would double the time
                    found[place] = _halves(file.read(num_bytes))
        except OSError:
            is_read[place] = False
    return found, is_read


def _halves(content: bytes) -> tuple[int, int]:
    """The two halves of a hash."""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _occurs_again(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys occur more than once, bool [N]."""
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    found = np.zeros(len(keys), bool)
    found[order[1:][same]] = True
    found[order[:-1][same]] = True
    return found
