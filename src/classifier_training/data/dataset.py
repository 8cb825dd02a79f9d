"""From sample keys to a batch of pixels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from classifier_training.core.images import UnreadableImageError, read_rgb
from classifier_training.core.types import Batch, SampleKey
from classifier_training.data.augment import augment
from classifier_training.data.jitter import jitter
from classifier_training.data.transforms import draw_uniforms, training_pixels

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.types import SplitTable
    from classifier_training.data.transforms import Transforms

log = logging.getLogger(__name__)


class ImageDataset(Dataset[Batch]):
    """Decodes, fits and, for training, augments the samples of one split.

    A loader hands over the keys of a whole batch and gets a finished `Batch`, so it needs no collate function.

    Args:
        table: the samples.
        preprocessing: how a picture is fitted.
        augmentation: None for evaluation.
        seed: of the run; the augmentation's randomness follows from it and the sample's key.
        on_error: raise ends the run at an unreadable image; skip leaves it out of its batch and says so once.
    """

    def __init__(
        self,
        table: SplitTable,
        *,
        preprocessing: Preprocessing,
        augmentation: Transforms | None,
        seed: int,
        on_error: Literal["raise", "skip"],
    ) -> None:
        self._table = table
        self._preprocessing = preprocessing
        self._augmentation = augmentation
        self._seed = seed
        self._on_error = on_error
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: SampleKey) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """Load one batch.

        Returns:
            The images that can be read: none at all, perhaps, when told to skip the others.

        Raises:
            UnreadableImageError: for the first image that cannot be read, unless told to skip such.
        """
        pixels: list[NDArray[np.uint8]] = []
        draws: list[NDArray[np.float64]] = []
        kept: list[int] = []
        for key in keys:
            uniforms = draw_uniforms(self._seed, key)
            try:
                pixels.append(self._load(self._table.paths[key.row], uniforms))
            except UnreadableImageError as error:
                self._skip(error)
                continue
            draws.append(uniforms)
            kept.append(key.row)
        indices = np.array(kept, dtype=np.int64)
        stacked = np.stack(pixels) if kept else np.empty((0, *self._preprocessing.size, 3), np.uint8)
        images = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        if self._augmentation is not None and kept:
            images = augment(images, torch.from_numpy(np.stack(draws)).float(), self._augmentation)
        return Batch(images, torch.from_numpy(self._table.targets[indices]), torch.from_numpy(indices))

    def _load(self, path: str, draws: NDArray[np.float64]) -> NDArray[np.uint8]:
        image = read_rgb(path)
        if self._augmentation is None:
            return self._preprocessing.pixels(image)
        pixels = training_pixels(image, self._preprocessing, self._augmentation.crop_scale, draws)
        return jitter(pixels, draws, self._augmentation) if self._augmentation.backend == "opencv" else pixels

    def _skip(self, error: UnreadableImageError) -> None:
        if self._on_error == "raise":
            raise error
        if error.path not in self._reported:
            self._reported.add(error.path)
            log.warning("skipped %s: %s", error.path, error.reason)
