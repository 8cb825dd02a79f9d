"""From image files to batches of inputs: every core decodes, and whichever ends a batch runs the model on it."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from classifier_training.core.image_files import MAX_PIXELS, UnreadableImageError
from classifier_training.core.runtime import num_cores
from classifier_training.core.storage.places import is_local, read_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.inference.sources import Item

T = TypeVar("T")

_pillow: Any = Image.core  # type: ignore[attr-defined] # its types leave it out; `Image.core` is how Pillow documents it

SECONDS_A_THREAD = 2e-4
"""Processor time of an image for each thread that decodes: much of a small image's time is Python's own, in which one
thread alone runs and others hold it up."""

BLOCKS_A_THREAD = 4
"""Blocks of 16 MiB that Pillow keeps for the next image: large photos decode in two thirds of the time when their
memory need not be returned and fetched again."""

SECONDS_A_SHARE = 0.01
"""Processor time of the images that a thread takes at once: of large ones few, so that all threads end together."""

FETCHED = 4
"""Batches of remote files that are fetched, or wait for a thread to decode them."""


class Decoded(NamedTuple):
    """An item with its input, float32 [3, H, W], or with the reason why it has none."""

    item: Item
    tensor: NDArray[np.float32] | None
    error: str | None


def decode(items: Iterable[Item], preprocessing: Preprocessing, *, ahead: int) -> Iterator[Decoded]:
    """Yield items decoded, in their order.

    Args:
        items: what to decode.
        preprocessing: from pixels to input.
        ahead: items that are decoded together, in advance.
    """
    for batch in map_batches(items, lambda batch: batch, preprocessing, batch_size=ahead):
        inputs = batch.inputs()
        for place, (item, error) in enumerate(zip(batch.items, batch.errors, strict=True)):
            yield Decoded(item, inputs[place] if error is None else None, error)


@dataclass
class Batch:
    """Items that go through the network together.

    Args:
        items: the images.
        preprocessing: from pixels to input.

    Attributes:
        pixels: as the network is to see them, uint8 [B, H, W, 3], RGB; zeros until an image is decoded.
        errors: why an image has none [B].
        waiting: rows that are not decoded yet.
    """

    items: list[Item]
    preprocessing: Preprocessing
    pixels: NDArray[np.uint8] = field(init=False)
    errors: list[str | None] = field(init=False)
    waiting: list[int] = field(init=False)
    _contents: dict[int, bytes | OSError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pixels = np.zeros((len(self.items), *self.preprocessing.size, 3), dtype=np.uint8)
        self.errors = [item.error for item in self.items]
        self.waiting = []
        for row, item in enumerate(self.items):
            if item.pixels is not None:
                # Frames arrive decoded and large; in a queue they would fill the memory.
                self.decode(row)
                self.items[row] = replace(item, pixels=None)
            elif item.error is None:
                self.waiting.append(row)

    @property
    def is_remote(self) -> bool:
        """Whether `fetch` is to be called first: files are not on this machine, or rows of a set."""
        return not all(is_local(self.items[row].path) for row in self.waiting)

    def fetch(self) -> None:
        """Read the contents of all files at the same time.

        Raises:
            UserError: when a remote store does not answer.
        """
        contents = read_many([self.items[row].path for row in self.waiting])
        self._contents = dict(zip(self.waiting, contents, strict=True))

    def decode(self, row: int) -> None:
        """Decode one image; a failure becomes its error."""
        item = self.items[row]
        try:
            self.pixels[row] = (
                read_pixels(item.path, self.preprocessing, self._contents.pop(row, None))
                if item.pixels is None
                else fit_pixels(Image.fromarray(item.pixels), self.preprocessing)
            )
        except UnreadableImageError as error:
            self.errors[row] = error.reason

    def inputs(self) -> NDArray[np.float32]:
        """The network's input, float32 [B, 3, H, W].

        An unreadable image leaves zeros in its place, so that the others are computed in a batch of the same size.
        """
        inputs = self.preprocessing.normalize(self.pixels)
        inputs[[error is not None for error in self.errors]] = 0
        return inputs


def read_pixels(path: str, preprocessing: Preprocessing, content: bytes | OSError | None = None) -> NDArray[np.uint8]:
    """Return an image file in the size of the input, uint8 [H, W, 3], RGB.

    Args:
        path: of the file.
        preprocessing: from pixels to input.
        content: of the file, or why it cannot be read, where it was fetched.

    Raises:
        UnreadableImageError: when the file cannot be decoded; see also `fit_pixels`.
    """
    try:
        return fit_pixels(preprocessing.read(path, content), preprocessing)
    except MemoryError as error:
        raise UnreadableImageError(path, "does not fit into memory") from error


def fit_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return an upright RGB image in the size of the input, uint8 [H, W, 3].

    Raises:
        UnreadableImageError: for an image that does not fit into memory, or is so long and thin that it becomes huge
            before it is cropped.
    """
    place = preprocessing.geometry(image.height, image.width)
    if place.height * place.width > MAX_PIXELS:
        raise UnreadableImageError("", f"{image.width} x {image.height} pixels are too long and thin to be cropped")
    try:
        return preprocessing.pixels(image)
    except MemoryError as error:
        raise UnreadableImageError("", "does not fit into memory") from error


def map_batches(
    items: Iterable[Item],
    run: Callable[[Batch], T],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    num_runs: int = 1,
) -> Iterator[T]:
    """Decode fixed batches of items and yield what a function makes of each, in their order.

    Args:
        items: the images; they are taken as they are needed.
        run: what to do with a decoded batch, in any thread.
        preprocessing: from pixels to input.
        batch_size: images in a batch; the last one may have fewer.
        num_runs: batches on which `run` is called at the same time.
    """
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if len(first) < 2:
        # For a single image, threads cost more than they save.
        if first:
            batch = Batch(first, preprocessing)
            for row in batch.waiting:
                batch.decode(row)
            yield run(batch)
        return
    remaining, waiting = chain(first, remaining), deque[Future[T]]()
    with _Workers(run, num_runs) as workers:
        while True:
            # One more than run at a time, so that there is always one to decode.
            while len(waiting) <= num_runs + workers.num_fetched and (taken := list(islice(remaining, batch_size))):
                waiting.append(workers.submit(Batch(taken, preprocessing)))
            if not waiting:
                return
            yield waiting.popleft().result()


@dataclass
class _Job(Generic[T]):
    """A batch, how many of its images have been given to a thread, and how many of these are decoded."""

    batch: Batch
    future: Future[T] = field(default_factory=Future)
    taken: int = 0
    decoded: int = 0


class _Workers(Generic[T]):
    """A thread for each core. All decode the oldest batch, each a part of it; the last to finish runs the model.

    Attributes:
        num_fetched: batches whose files are fetched ahead; 0 until there is a remote one.
    """

    def __init__(self, run: Callable[[Batch], T], num_runs: int) -> None:
        self._run = run
        self._jobs: deque[_Job[T]] = deque()
        self._changed = threading.Condition()
        self._may_run = threading.Semaphore(num_runs)
        self._is_closed = False
        self._num_decoding, self._most_decoding, self._most_taken = 0, num_cores(), 1
        self.num_fetched = 0
        self._blocks_before = _pillow.get_blocks_max()
        self._threads = [threading.Thread(target=self._work, name="decode", daemon=True) for _ in range(num_cores())]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        _pillow.set_blocks_max(self._blocks_before)

    def submit(self, batch: Batch) -> Future[T]:
        """Decode a batch and run the model on it."""
        job: _Job[T] = _Job(batch)
        if batch.is_remote:
            self.num_fetched = FETCHED
            threading.Thread(target=self._fetch, args=(job,), name="fetch", daemon=True).start()
        else:
            self._add(job)
        return job.future

    def _fetch(self, job: _Job[T]) -> None:
        try:
            job.batch.fetch()
            self._add(job)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for the batch
            job.future.set_exception(error)

    def _add(self, job: _Job[T]) -> None:
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()

    def _work(self) -> None:
        while (found := self._take()) is not None:
            job, rows = found
            try:
                if self._decode(job, rows):
                    with self._may_run:
                        job.future.set_result(self._run(job.batch))
            except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for the batch
                with suppress(Exception):
                    job.future.set_exception(error)

    def _decode(self, job: _Job[T], rows: list[int]) -> bool:
        """Decode images of a batch; returns whether it is decoded as a whole."""
        started = time.thread_time()
        try:
            for row in rows:
                if self._is_closed:
                    return False
                job.batch.decode(row)
        finally:
            with self._changed:
                if rows:
                    seconds = (time.thread_time() - started) / len(rows)
                    self._most_decoding = min(len(self._threads), max(1, int(seconds / SECONDS_A_THREAD)))
                    self._most_taken = max(1, int(SECONDS_A_SHARE / max(seconds, 1e-9)))
                    if seconds > SECONDS_A_SHARE:
                        _pillow.set_blocks_max(max(self._blocks_before, BLOCKS_A_THREAD * len(self._threads)))
                self._num_decoding -= 1
                job.decoded += len(rows)
                is_whole = job.decoded == len(job.batch.waiting)
                self._changed.notify_all()
        return is_whole

    def _take(self) -> tuple[_Job[T], list[int]] | None:
        """Give a thread its share of the images that are left of the oldest batch; None at the end."""
        with self._changed:
            while not self._is_closed and (not self._jobs or self._num_decoding >= self._most_decoding):
                self._changed.wait()
            if self._is_closed:
                return None
            self._num_decoding += 1
            job = self._jobs[0]
            left = job.batch.waiting[job.taken :]
            rows = left[: max(1, min(len(left) // self._most_decoding, self._most_taken))]
            job.taken += len(rows)
            if len(rows) == len(left):
                self._jobs.popleft()
            return job, rows
