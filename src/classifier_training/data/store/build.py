"""Making a store at once, with all cores, before training."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.images import UnreadableImageError
from classifier_training.core.runtime import leave_interrupts, num_cores
from classifier_training.data.checking.content import hash_file
from classifier_training.data.recipe import encode
from classifier_training.data.store.shards import SHARD_BYTES, ShardWriter, next_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.data.recipe import Recipe
    from classifier_training.data.store.folder import StoreFolder

MAX_CHUNK = 256
"""Files of a task: as many are lost at the most, for each process, when a build is killed."""


@dataclass
class Built:
    """What a build did.

    Args:
        num_files: images asked for.
        num_made: those that were decoded now; the others were there.
        unreadable: the files that gave no pixels.
    """

    num_files: int = 0
    num_made: int = 0
    unreadable: tuple[UnreadableImageError, ...] = ()


def build_store(
    store: StoreFolder, paths: Sequence[str], *, verify: bool = False, advance: Callable[[int], None] = lambda _: None
) -> Built:
    """Decode and store every file that is new or has changed.

    Args:
        store: opened by a writer.
        paths: absolute.
        verify: compare contents, too, where size and time say that a file is the same.
        advance: told how many files more are done.

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
        tasks = {
            pool.submit(
                write_chunk, store.folder, first + number, store.recipe, [paths[row] for row in rows], entries[rows]
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
                "room on the disk",
                "free some, or choose another folder: export CLASSIFIER_TRAINING_CACHE=/some/folder",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
            store.refresh()
    return built


def write_chunk(
    folder: Path, number: int, recipe: Recipe, paths: Sequence[str], entries: NDArray[np.void]
) -> list[UnreadableImageError]:
    """Decode files into shards of their own; runs in another process.

    Returns:
        The files that gave no pixels.

    Raises:
        OSError: when there is no room.
    """
    unreadable: list[UnreadableImageError] = []
    writer = ShardWriter(folder, number)
    try:
        for path, known in zip(paths, entries, strict=True):
            try:
                pixels = recipe.read(path)
            except UnreadableImageError as error:
                unreadable.append(error)
                continue
            entry = known.copy()
            entry["content"] = hash_file(path)
            entry["height"], entry["width"] = pixels.shape[:2]
            writer.add(entry, encode(pixels) if recipe.jpeg else np.ascontiguousarray(pixels).data.cast("B"))
            if writer.num_bytes >= SHARD_BYTES:
                writer.commit()
                writer = ShardWriter(folder, number)
        writer.commit()
    except BaseException:
        writer.discard()
        raise
    return unreadable


def _forget_changed(entries: NDArray[np.void], paths: Sequence[str]) -> None:
    """Mark entries whose file has another content by now as missing."""

    def changed(row: int) -> bool:
        try:
            return bool(np.bytes_(hash_file(paths[row])) != entries["content"][row])
        except OSError:  # whoever decodes the file says what is wrong with it
            return True

    stored = np.flatnonzero(entries["shard"] >= 0).tolist()
    with ThreadPoolExecutor(num_cores()) as pool:
        for row, is_changed in zip(stored, pool.map(changed, stored), strict=True):
            if is_changed:
                entries["shard"][row] = -1
