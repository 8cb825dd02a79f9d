"""A scan of all files: each is decoded once, at reduced size, in as many processes as there are cores."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_preview
from classifier_training.core.runtime import leave_interrupts, starts_quietly
from classifier_training.core.storage.places import is_local, read_bytes, read_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

THUMBNAIL = 32
"""Side of the thumbnails that images are compared by."""

CHUNK = 64
"""Files that a process takes at a time."""

MIN_PARALLEL = 512
"""Fewest files for which it pays to start processes."""


class FileFacts(NamedTuple):
    """Properties of one file.

    Args:
        path: relative to the data root.
        error: why it cannot be decoded; empty if it can, and only then are the other fields set.
        width: in pixels, as stored.
        height: in pixels, as stored.
        mode: Pillow's name for the stored pixels.
        orientation: EXIF tag 274; 1 is upright.
        num_frames: 1 unless animated.
        peak: largest sample, of grey ones of more than 8 bits whose file does not say which value is white, and largest
            upper byte of 16-bit colours; -1 for all others.
        is_cut: whether it has 16-bit colours.
        brightness: mean luma, 0 to 255.
        file_hash: of the file's bytes; empty when they cannot be read.
        pixel_hash: of the decoded pixels; empty for images of one colour, which are alike without being duplicates.
    """

    path: str
    error: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    orientation: int = 1
    num_frames: int = 1
    peak: int = -1
    is_cut: bool = False
    brightness: float = 0.0
    file_hash: bytes = b""
    pixel_hash: bytes = b""


@dataclass(frozen=True)
class FileScan:
    """Every file of a data set.

    Args:
        root: folder that the paths are relative to.
        facts: one for each distinct path [N].
        thumbnails: upright RGB, uint8 [N, 32, 32, 3], on disk; zeros where a file is unreadable.
    """

    root: Path
    facts: Sequence[FileFacts]
    thumbnails: NDArray[np.uint8]

    @property
    def readable(self) -> list[FileFacts]:
        """The files that can be decoded."""
        return [fact for fact in self.facts if not fact.error]

    @property
    def unreadable(self) -> list[FileFacts]:
        """The files that cannot."""
        return [fact for fact in self.facts if fact.error]


def scan_files(
    root: Path, paths: Sequence[str], *, num_workers: int, progress: Callable[[int], None] = lambda _: None
) -> FileScan:
    """Decode every file once.

    Memory stays small: thumbnails go to an unnamed file, and only a few chunks are in flight at a time.

    Args:
        root: folder that the paths are relative to.
        paths: distinct, in the order of the result.
        num_workers: processes.
        progress: called with the number of files done since the last call.
    """
    facts: list[FileFacts] = []
    # The mapping keeps the file open while it is used; afterwards nothing is left on disk.
    with tempfile.TemporaryFile() as spilled:
        spilled.truncate(max(1, len(paths)) * THUMBNAIL * THUMBNAIL * 3)
        thumbnails: NDArray[np.uint8] = np.memmap(
            spilled, dtype=np.uint8, mode="r+", shape=(len(paths), THUMBNAIL, THUMBNAIL, 3) if paths else (1,)
        )
    for found, pixels in _scan_chunks(root, paths, num_workers if len(paths) >= MIN_PARALLEL else 1):
        thumbnails[len(facts) : len(facts) + len(found)] = pixels
        facts += found
        progress(len(found))
    return FileScan(root, facts, thumbnails)


def _scan_chunks(
    root: Path, paths: Sequence[str], num_workers: int
) -> Iterator[tuple[list[FileFacts], NDArray[np.uint8]]]:
    chunks = (paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))
    if num_workers <= 1:
        yield from (scan_chunk(root, chunk) for chunk in chunks)
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=leave_interrupts) as pool:
        waiting: deque[Future[tuple[list[FileFacts], NDArray[np.uint8]]]] = deque()
        try:
            for chunk in itertools.chain(chunks, [None] * 4 * num_workers):
                if chunk is not None:
                    with starts_quietly():
                        waiting.append(pool.submit(scan_chunk, root, chunk))
                if waiting and (chunk is None or len(waiting) >= 4 * num_workers):
                    yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def scan_chunk(root: Path, paths: Sequence[str]) -> tuple[list[FileFacts], NDArray[np.uint8]]:
    """Decode some files; see `scan_files`."""
    thumbnails = np.zeros((len(paths), THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
    places = [root / path for path in paths]
    contents = [None] * len(paths) if all(map(is_local, places)) else read_many(places)
    facts = [
        _scan_file(root, path, thumbnail, content)
        for path, thumbnail, content in zip(paths, thumbnails, contents, strict=True)
    ]
    return facts, thumbnails


def _scan_file(
    root: Path, path: str, thumbnail: NDArray[np.uint8], content: bytes | OSError | None = None
) -> FileFacts:
    try:
        preview = read_preview(root / path, min_side=2 * THUMBNAIL, content=content)
        file_hash = _hash(content) if isinstance(content, bytes) else hash_file(root / path)
    except UnreadableImageError as error:
        return FileFacts(path, error.reason)
    except OSError as error:
        return FileFacts(path, error.strerror or str(error))
    image = preview.image
    kernel = Image.Resampling.BOX if min(image.size) >= THUMBNAIL else Image.Resampling.BILINEAR
    thumbnail[...] = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), kernel))
    extrema = np.array(image.getextrema())
    one_colour = bool((extrema[:, 0] == extrema[:, 1]).all())
    return FileFacts(
        path=path,
        width=preview.width,
        height=preview.height,
        mode=preview.mode,
        orientation=preview.orientation,
        num_frames=preview.num_frames,
        peak=int(extrema[:, 1].max()) if preview.is_cut else -1 if preview.peak is None else preview.peak,
        is_cut=preview.is_cut,
        brightness=float(thumbnail.mean(axis=(0, 1)) @ (0.299, 0.587, 0.114)),
        file_hash=file_hash,
        pixel_hash=b"" if one_colour else _hash(f"{image.size}".encode() + image.tobytes()),
    )


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def hash_file(path: Path | str) -> bytes:
    """Hash a file's content: 16 bytes of BLAKE2.

    Raises:
        OSError: when it cannot be read.
    """
    if not is_local(path):
        return _hash(read_bytes(path))
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
