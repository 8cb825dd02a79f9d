"""From sample keys to a batch of pixels."""

from __future__ import annotations

import functools
import logging
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.runtime import num_cores
from classifier_training.core.storage.places import is_local, read_many
from classifier_training.core.types import Batch, SampleKey
from classifier_training.data.augmenting.augment import Changes, changes_batch
from classifier_training.data.augmenting.images import degrade, jitter, training_pixels, trivial_augment
from classifier_training.data.augmenting.transforms import draw_uniforms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitTable
    from classifier_training.data.augmenting.transforms import Transforms
    from classifier_training.data.pixel_format import PixelFormat
    from classifier_training.data.store.folder import TableStore

log = logging.getLogger(__name__)

Result = TypeVar("Result")

ALONE_PIXELS = 128 * 128
"""Images from this size on are augmented one by one, smaller ones as a batch."""

SAMPLED = 64
"""Images by which a table is known as one of this machine."""


class Loaded(NamedTuple):
    """A batch, and the images decoded for it, as row and pixels for the store."""

    batch: Batch
    decoded: list[tuple[int, NDArray[np.uint8]]]


class ImageDataset(Dataset[Batch]):
    """Fetches, fits and, for training, augments the samples of one split.

    A loader passes the keys of a whole batch and gets a finished `Batch`, so it needs no collate function.

    Args:
        table: the samples.
        pixel_format: size and form of decoded pixels, with a store or without.
        augmentation: None for evaluation.
        seed: of the run; the augmentation's randomness follows from it and the sample's key.
        on_error: at an unreadable image, raise raises the error; skip leaves it out of its batch and logs it once.
        reported: paths of unreadable images that were logged; shared by the datasets of a run.
        store: decoded pixels on disk; missing ones are decoded.
        augments: False leaves the augmentation of whole batches to the device and returns its random numbers.
    """

    def __init__(
        self,
        table: SplitTable,
        *,
        pixel_format: PixelFormat,
        augmentation: Transforms | None,
        seed: int,
        on_error: Literal["raise", "skip"],
        reported: set[str] | None = None,
        store: TableStore | None = None,
        augments: bool = True,
    ) -> None:
        self._table = table
        self._pixel_format = pixel_format
        self._augmentation = augmentation
        self._seed = seed
        self._on_error = on_error
        self._augments = augments
        self._reported: set[str] = set() if reported is None else reported
        self.store = store

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: SampleKey) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """Load one batch; see `load`."""
        return self.load(keys).batch

    def path(self, row: int) -> str:
        """Path of a sample."""
        return self._table.paths[row]

    @property
    def is_local(self) -> bool:
        """Whether some images, spread over the table, are all files of this machine; then nothing is fetched ahead."""
        return all(is_local(self._table.paths[row]) for row in range(0, len(self), max(1, len(self) // SAMPLED)))

    def fetch(self, keys: Sequence[SampleKey]) -> list[bytes | OSError | None]:
        """Read the files of samples that are not on this machine, at the same time; None for those that are stored.

        Raises:
            UserError: when they cannot be reached.
        """
        rows = np.array([key.row for key in keys], dtype=np.int64)
        stored = np.zeros(len(rows), bool) if self.store is None else self.store.has(rows)
        contents: list[bytes | OSError | None] = [None] * len(rows)
        paths = {place: self._table.paths[rows[place]] for place in np.flatnonzero(~stored).tolist()}
        places = [place for place, path in paths.items() if not is_local(path)]
        for place, content in zip(places, read_many([paths[place] for place in places]), strict=True):
            contents[place] = content
        return contents

    def load(
        self,
        keys: list[SampleKey],
        *,
        contents: Sequence[bytes | OSError | None] | None = None,
        tell: Callable[[int], None] | None = None,
    ) -> Loaded:
        """Load one batch.

        Args:
            keys: its samples.
            contents: what `fetch` gave for them, where it was called before.
            tell: called with each row before its image is read.

        Returns:
            The images that can be read; with on_error=skip there may be none.

        Raises:
            UnreadableImageError: for the first image that cannot be read, with on_error=raise.
        """
        rows = np.array([key.row for key in keys], dtype=np.int64)
        if self._keeps_whole and self.store is not None and self.store.has(rows).all():
            gathered = self.store.gather(rows)
            if gathered is not None:
                return Loaded(self._batch(torch.from_numpy(gathered).permute(0, 3, 1, 2), rows), [])
        stored = np.zeros(len(rows), bool) if self.store is None else self.store.has(rows)
        draws = np.stack([draw_uniforms(self._seed, key) for key in keys]) if self._augmentation else None
        height, width = self._pixel_format.preprocessing.size
        uniforms = self._uniforms(draws)
        changes = None
        if uniforms is not None and self._augments:
            assert self._augmentation is not None
            changes = Changes(uniforms, self._augmentation, height, width)
        alone = height * width >= ALONE_PIXELS
        shape = (3, height, width) if changes is not None and alone else (height, width, 3)
        out = torch.empty((len(keys), *shape), dtype=torch.uint8)
        whole = out.numpy()

        contents = self.fetch(keys) if contents is None else contents

        def work(place: int) -> NDArray[np.uint8] | UnreadableImageError:
            row = keys[place].row
            if tell is not None:
                tell(row)
            try:
                content = contents[place]
                if content is None:
                    kept = self._kept(row, stored=bool(stored[place]))
                else:
                    kept = self._pixel_format.read(self._table.paths[row], content)
            except UnreadableImageError as error:
                return error
            if draws is not None:
                pixels = self._train(kept, draws[place], stored=bool(stored[place]))
            else:
                pixels = kept if self._keeps_whole else self._pixel_format.preprocessing.pixels(Image.fromarray(kept))
            if changes is not None and alone:
                changes.apply_one(place, torch.from_numpy(pixels).permute(2, 0, 1), out[place])
            else:
                whole[place] = pixels
            return kept

        found = _in_threads(work, len(keys), alone=alone or not stored.all())
        for error in found:
            if isinstance(error, UnreadableImageError):
                self._skip(error)
        images = out if shape[0] == 3 else out.permute(0, 3, 1, 2)
        if changes is not None and not alone:
            (images,) = map_samples(lambda _: changes.apply(images), 1)
        good = [place for place, kept in enumerate(found) if not isinstance(kept, UnreadableImageError)]
        if len(good) < len(keys):
            images, rows = images[good], rows[good]
            uniforms = None if uniforms is None else uniforms[good]
        batch = self._batch(images, rows)
        if uniforms is not None and not self._augments:
            batch = batch._replace(draws=uniforms)
        decoded = [(keys[place].row, found[place]) for place in good if self.store is not None and not stored[place]]
        return Loaded(batch, decoded)  # type: ignore[arg-type] # errors are gone

    @property
    def _keeps_whole(self) -> bool:
        """Whether the kept pixels are those of evaluation; for random crops, larger ones are kept."""
        return self._augmentation is None and self._pixel_format.crop_scale == 1

    def _uniforms(self, draws: NDArray[np.float64] | None) -> torch.Tensor | None:
        if draws is None or self._augmentation is None or not changes_batch(self._augmentation):
            return None
        return torch.from_numpy(draws).float()

    def _batch(self, images: torch.Tensor, rows: NDArray[np.int64]) -> Batch:
        return Batch(images, torch.from_numpy(self._table.targets[rows]), torch.from_numpy(rows))

    def _kept(self, row: int, *, stored: bool) -> NDArray[np.uint8]:
        if stored:
            assert self.store is not None
            return self.store.pixels(row)
        return self._pixel_format.read(self._table.paths[row])

    def _train(self, kept: NDArray[np.uint8], draws: NDArray[np.float64], *, stored: bool) -> NDArray[np.uint8]:
        assert self._augmentation is not None
        kept = kept if stored else self._pixel_format.restored(kept)
        pixels = training_pixels(kept, self._pixel_format.preprocessing, self._pixel_format.crop_scale, draws)
        if self._augmentation.trivial_augment:
            pixels = trivial_augment(pixels, draws)
        if self._augmentation.degrades:
            pixels = degrade(pixels, draws, self._augmentation)
        return jitter(pixels, draws, self._augmentation) if self._augmentation.backend == "opencv" else pixels

    def _skip(self, error: UnreadableImageError) -> None:
        if self._on_error == "raise":
            raise error
        if error.path not in self._reported:
            self._reported.add(error.path)
            log.warning("skipped %s: %s", error.path, error.reason)


def _in_threads(work: Callable[[int], Result], number: int, *, alone: bool) -> list[Result]:
    """Process samples in several threads, or in one thread if they are small."""
    if alone:
        return map_samples(work, number)
    (found,) = map_samples(lambda _: [work(place) for place in range(number)], 1)
    return found


def map_samples(work: Callable[[int], Result], number: int) -> list[Result]:
    """Call `work` with 0 to number - 1: in threads with one torch thread each, or one by one in a worker process.

    The result then depends on the sample only, not on the number of cores or the process. Errors of `work` are raised
    here.
    """
    if get_worker_info() is not None:
        return [work(place) for place in range(number)]
    tasks = _start_threads(os.getpid())
    # One task per thread, not per sample: passing a task takes as long as a small image.
    parts = [range(start, number, num_cores()) for start in range(min(number, num_cores()))]
    finished: SimpleQueue[Any] = SimpleQueue()
    for part in parts:
        tasks.put((work, part, finished))
    results: dict[int, Result] = {}
    for _ in parts:
        result = finished.get()
        if isinstance(result, BaseException):
            raise result
        results.update(result)
    return [results[place] for place in range(number)]


@functools.cache
def _start_threads(_process: int) -> SimpleQueue[Any]:
    """Start this process's threads and return the queue of their tasks.

    A pool of concurrent.futures keeps its locks in Python, where a Ctrl-C between two lines leaves one locked for good.
    """
    tasks: SimpleQueue[Any] = SimpleQueue()
    started = threading.Barrier(num_cores() + 1)
    # In OpenMP each thread has its own number of threads, but torch also keeps it for new threads.
    before = torch.get_num_threads()
    for number in range(num_cores()):
        threading.Thread(target=_serve, args=(tasks, started), name=f"samples-{number}", daemon=True).start()
    started.wait()
    torch.set_num_threads(before)
    return tasks


def _serve(tasks: SimpleQueue[Any], started: threading.Barrier) -> None:
    torch.set_num_threads(1)
    started.wait()
    while True:
        work, places, finished = tasks.get()
        try:
            finished.put([(place, work(place)) for place in places])
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            finished.put(error)
        del work, places, finished
