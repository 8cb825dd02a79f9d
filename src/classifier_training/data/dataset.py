"""From sample keys to a batch of pixels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from classifier_training.core.images import UnreadableImageError
from classifier_training.core.types import Batch, SampleKey
from classifier_training.data.augment import augment, changes_batch
from classifier_training.data.crop import training_pixels
from classifier_training.data.jitter import jitter
from classifier_training.data.threads import map_samples
from classifier_training.data.transforms import draw_uniforms

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitTable
    from classifier_training.data.recipe import Recipe
    from classifier_training.data.store.folder import TableStore
    from classifier_training.data.transforms import Transforms

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A batch, and what was decoded for it: row and kept pixels, for the store."""

    batch: Batch
    decoded: list[tuple[int, NDArray[np.uint8]]]


class _Sample(NamedTuple):
    row: int
    pixels: NDArray[np.uint8]
    kept: NDArray[np.uint8] | None
    draws: NDArray[np.float64] | None


class ImageDataset(Dataset[Batch]):
    """Fetches, fits and, for training, augments the samples of one split.

    A loader hands over the keys of a whole batch and gets a finished `Batch`, so it needs no collate function.

    Args:
        table: the samples.
        recipe: what is kept of a picture, with a store or without.
        augmentation: None for evaluation.
        seed: of the run; the augmentation's randomness follows from it and the sample's key.
        on_error: raise ends the run at an unreadable image; skip leaves it out of its batch and says so once.
        store: where pixels come from, as far as they are there.
        augments: False leaves what is done to whole batches to the device, and hands over its random numbers.
    """

    def __init__(
        self,
        table: SplitTable,
        *,
        recipe: Recipe,
        augmentation: Transforms | None,
        seed: int,
        on_error: Literal["raise", "skip"],
        store: TableStore | None = None,
        augments: bool = True,
    ) -> None:
        self._table = table
        self._recipe = recipe
        self._augmentation = augmentation
        self._seed = seed
        self._on_error = on_error
        self._augments = augments
        self._reported: set[str] = set()
        self.store = store

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: SampleKey) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """Load one batch; see `load`."""
        return self.load(keys).batch

    def load(self, keys: list[SampleKey]) -> Loaded:
        """Load one batch.

        Returns:
            The images that can be read: none at all, perhaps, when told to skip the others.

        Raises:
            UnreadableImageError: for the first image that cannot be read, unless told to skip such.
        """
        rows = np.array([key.row for key in keys], dtype=np.int64)
        if self._augmentation is None and self.store is not None and self.store.has(rows).all():
            gathered = self.store.gather(rows)
            if gathered is not None:
                return Loaded(self._batch(gathered, rows, None), [])
        stored = np.zeros(len(rows), bool) if self.store is None else self.store.has(rows)
        samples: list[_Sample] = []
        found = map_samples(lambda place: self._sample(keys[place], stored=bool(stored[place])), len(keys))
        for sample in found:
            if isinstance(sample, UnreadableImageError):
                self._skip(sample)
            else:
                samples.append(sample)
        decoded = [(sample.row, sample.kept) for sample in samples if sample.kept is not None]
        pixels = [sample.pixels for sample in samples]
        stacked = np.stack(pixels) if pixels else np.empty((0, *self._recipe.preprocessing.size, 3), np.uint8)
        draws = [sample.draws for sample in samples if sample.draws is not None]
        kept = np.array([sample.row for sample in samples], dtype=np.int64)
        return Loaded(self._batch(stacked, kept, np.stack(draws) if draws else None), decoded)

    def _batch(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], draws: NDArray[np.float64] | None) -> Batch:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        batch = Batch(images, torch.from_numpy(self._table.targets[rows]), torch.from_numpy(rows))
        if self._augmentation is None or draws is None or not changes_batch(self._augmentation):
            return batch
        uniforms = torch.from_numpy(draws).float()
        if not self._augments:
            return batch._replace(draws=uniforms)
        return batch._replace(images=augment(images, uniforms, self._augmentation))

    def _sample(self, key: SampleKey, *, stored: bool) -> _Sample | UnreadableImageError:
        if stored:
            assert self.store is not None
            kept = self.store.pixels(key.row)
        else:
            try:
                kept = self._recipe.read(self._table.paths[key.row])
            except UnreadableImageError as error:
                return error
        fresh = None if stored or self.store is None else kept
        if self._augmentation is None:
            return _Sample(key.row, kept, fresh, None)
        draws = draw_uniforms(self._seed, key)
        kept = kept if stored else self._recipe.restored(kept)
        pixels = training_pixels(kept, self._recipe.preprocessing, self._recipe.crop_scale, draws)
        if self._augmentation.backend == "opencv":
            pixels = jitter(pixels, draws, self._augmentation)
        return _Sample(key.row, pixels, fresh, draws)

    def _skip(self, error: UnreadableImageError) -> None:
        if self._on_error == "raise":
            raise error
        if error.path not in self._reported:
            self._reported.add(error.path)
            log.warning("skipped %s: %s", error.path, error.reason)
