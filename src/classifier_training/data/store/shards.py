"""The files of a store: shards of pixels, each with a list of its entries; and building a whole store before training.

A shard is written under a temporary name, fsynced and renamed; then its list is written in the same way and marks it as
complete. Readers use the lists only, so incomplete shards are never read, and shards that a killed writer completed
remain.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import leave_interrupts, num_cores, starts_quietly
from classifier_training.core.storage.places import is_local, known, read_many
from classifier_training.data.checking.scan import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.storage.places import Known
    from classifier_training.data.pixel_format import PixelFormat
    from classifier_training.data.store.folder import StoreFolder

ENTRY = np.dtype(
    [
        ("path", "S16"), ("content", "S16"), ("size", "<i8"), ("mtime_ns", "<i8"),
        ("shard", "<i4"), ("offset", "<i8"), ("num_bytes", "<i8"), ("height", "<i4"), ("width", "<i4"),
    ]
)  # fmt: skip
"""One image: hashes of the file's absolute path and content, its size and time, and where its pixels are."""

CHUNK = 1 << 14
"""Files of which there are objects at a time."""

SHARD_BYTES = 64 * 2**20
SHARD_ENTRIES = 1024
"""Most entries that a killed writer loses."""


def hash_content(path: str) -> bytes:
    """Hash a file's content; of a remote file whose version is known, the version, without reading it again.

    Raises:
        OSError: when it cannot be read.
    """
    (facts,) = (None,) if is_local(path) else known([path])
    if facts is not None and facts.version:
        return blake2b(str(facts).encode(), digest_size=16).digest()
    return hash_file(path)


def describe_files(paths: Sequence[str]) -> NDArray[np.void]:
    """Return entries with path, size and time filled in [N]; the size is -1 where nothing is known of the file.

    The version of a remote file stands in the place of its time.
    """
    found = np.zeros(len(paths), ENTRY)
    for start in range(0, len(paths), CHUNK):
        some = list(paths[start : start + CHUNK])
        part = found[start : start + CHUNK]
        part["path"] = np.frombuffer(b"".join(map(hash_path, some)), "S16")
        facts = [_stamp(path, one) for path, one in zip(some, known(some), strict=True)]
        part["size"] = [size for size, _ in facts]
        part["mtime_ns"] = np.array([version for _, version in facts], dtype=np.uint64).view(np.int64)
    return found


def _stamp(path: str, facts: Known | None) -> tuple[int, int]:
    if facts is None or (facts.version == 0 and not is_local(path)):
        return -1, 0
    return facts.num_bytes, facts.version % 2**64


def hash_path(path: str) -> bytes:
    """The 16 bytes by which an entry is found."""
    return blake2b(path.encode(errors="surrogateescape"), digest_size=16).digest()


class ShardWriter:
    """Writes one shard; there may be several writers in one folder.

    Args:
        folder: of the store.
        number: of the shard; of two entries for one file, the one in the later shard counts.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._target = folder / f"{number:06d}-{secrets.token_hex(3)}.pixels"
        self._temporary = self._target.with_suffix(".tmp")
        self._file = self._temporary.open("wb")
        self._entries: list[NDArray[np.void]] = []
        self.num_bytes = 0

    @property
    def full(self) -> bool:
        """Whether the shard is full."""
        return self.num_bytes >= SHARD_BYTES or len(self._entries) >= SHARD_ENTRIES

    def add(self, entry: NDArray[np.void], data: bytes | memoryview) -> None:
        """Append an image and fill in its offset.

        Raises:
            OSError: when the disk is full.
        """
        entry = entry.copy()
        entry["offset"], entry["num_bytes"] = self.num_bytes, len(data)
        self._file.write(data)
        self.num_bytes += len(data)
        self._entries.append(entry)

    def commit(self) -> None:
        """Add the shard to the store.

        Raises:
            OSError: when the disk is full.
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
        """Remove the files of the shard."""
        with contextlib.suppress(OSError):  # the rest of the buffer may not fit, either
            self._file.close()
        for path in (self._temporary, self._target):
            path.unlink(missing_ok=True)


def shard_names(folder: Path) -> list[str]:
    """Names of the complete shards, in their order."""
    return sorted(path.stem for path in folder.glob("[0-9]*.entries"))


def next_number(folder: Path) -> int:
    """Return the number after that of the last complete shard."""
    names = shard_names(folder)
    return int(names[-1].partition("-")[0]) + 1 if names else 0


def read_entries(folder: Path, names: Sequence[str]) -> NDArray[np.void]:
    """Return the entries of the shards, sorted by path; only the latest of each path."""
    parts = []
    for number, name in enumerate(names):
        with (folder / f"{name}.entries").open("rb") as file:
            # np.load would also open archives.
            part = np.lib.format.read_array(file, allow_pickle=False)
        part["shard"] = number
        parts.append(part)
    every = np.concatenate(parts) if parts else np.zeros(0, ENTRY)
    every = every[np.argsort(every["path"], kind="stable")]
    last = np.ones(len(every), bool)
    last[:-1] = every["path"][1:] != every["path"][:-1]
    return np.asarray(every[last])


def clean(folder: Path) -> None:
    """Remove incomplete files of a killed writer; only for the holder of the writers' lock."""
    complete = set(shard_names(folder))
    for path in folder.iterdir():
        if path.suffix == ".tmp" or (path.suffix == ".pixels" and path.stem not in complete):
            path.unlink(missing_ok=True)


MAX_CHUNK = 256
"""Files of a task; a killed build loses at most as many in each process."""


@dataclass
class Built:
    """Result of a build.

    Args:
        num_files: images in total.
        num_made: those decoded now; the others were stored already.
        unreadable: errors of the files that cannot be decoded.
    """

    num_files: int = 0
    num_made: int = 0
    unreadable: tuple[UnreadableImageError, ...] = ()


def build_store(
    store: StoreFolder, paths: Sequence[str], *, verify: bool = False, advance: Callable[[int], None] = lambda _: None
) -> Built:
    """Decode and store every file that is new or has changed.

    Args:
        store: open for writing.
        paths: absolute.
        verify: compare the contents of files whose size and time are unchanged, too.
        advance: called with the number of files done since the last call.

    Raises:
        UserError: when the disk is full.
    """
    paths = list(dict.fromkeys(paths))
    entries = store.locate(paths)
    if verify:
        _forget_changed(entries, paths)
    missing = np.flatnonzero(entries["shard"] < 0)
    advance(len(paths) - len(missing))
    built = Built(num_files=len(paths))
    processes = min(num_cores(), max(1, len(missing)))
    size = max(1, min(MAX_CHUNK, -(-len(missing) // (4 * processes))))
    chunks = [missing[start : start + size] for start in range(0, len(missing), size)]
    if not chunks:
        return built
    first = next_number(store.folder)
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=leave_interrupts
    ) as pool:
        with starts_quietly():
            tasks = {
                pool.submit(
                    write_chunk,
                    store.folder,
                    first + number,
                    store.pixel_format,
                    [paths[row] for row in rows],
                    entries[rows],
                ): len(rows)
                for number, rows in enumerate(chunks)
            }
        try:
            for task in as_completed(tasks):
                unreadable = task.result()
                built.unreadable += tuple(unreadable)
                built.num_made += tasks[task] - len(unreadable)
                advance(tasks[task])
        except OSError as error:
            raise UserError(
                f"{store.folder}: the pixels cannot be written ({error.strerror or error})",
                "free disk space",
                "free some, or choose another folder: export CLASSIFIER_TRAINING_CACHE=/some/folder",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
            store.refresh()
    return built


def write_chunk(
    folder: Path, number: int, pixel_format: PixelFormat, paths: Sequence[str], entries: NDArray[np.void]
) -> list[UnreadableImageError]:
    """Decode files into new shards; runs in another process.

    Returns:
        Errors of the files that cannot be decoded.

    Raises:
        OSError: when the disk is full.
    """
    unreadable: list[UnreadableImageError] = []
    writer = ShardWriter(folder, number)
    try:
        contents = [None] * len(paths) if all(map(is_local, paths)) else read_many(paths)
        for path, content, described in zip(paths, contents, entries, strict=True):
            try:
                pixels = pixel_format.read(path, content)
            except UnreadableImageError as error:
                unreadable.append(error)
                continue
            entry = described.copy()
            entry["content"] = hash_content(path)
            entry["height"], entry["width"] = pixels.shape[:2]
            writer.add(entry, pixel_format.encoded(pixels))
            if writer.num_bytes >= SHARD_BYTES:
                writer.commit()
                writer = ShardWriter(folder, number)
        writer.commit()
    except BaseException:
        writer.discard()
        raise
    return unreadable


def _forget_changed(entries: NDArray[np.void], paths: Sequence[str]) -> None:
    """Mark entries whose file content has changed as missing."""

    def changed(row: int) -> bool:
        try:
            return bool(np.bytes_(hash_content(paths[row])) != entries["content"][row])
        except OSError:  # decoding the file will report the error
            return True

    stored = np.flatnonzero(entries["shard"] >= 0).tolist()
    with ThreadPoolExecutor(num_cores()) as pool:
        for row, is_changed in zip(stored, pool.map(changed, stored), strict=True):
            if is_changed:
                entries["shard"][row] = -1
