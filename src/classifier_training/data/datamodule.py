"""The Lightning data module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytorch_lightning import LightningDataModule

from classifier_training.core.processes import Share
from classifier_training.core.runtime import num_cores
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.augmenting.augment import augment
from classifier_training.data.dataset import ImageDataset
from classifier_training.data.loader import BatchLoader
from classifier_training.data.pixel_format import PixelFormat
from classifier_training.data.samplers import EpochSampler, Replay, batch_sizes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.types import Batch, SplitTable
    from classifier_training.data.augmenting.transforms import Transforms
    from classifier_training.data.index import SplitData
    from classifier_training.data.store.folder import TableStore

MAX_AUTO_WORKERS = 8


class ImageFolderDataModule(LightningDataModule):
    """Loaders for the splits of an image data set.

    Args:
        data: classes and tables.
        preprocessing: what evaluation does to an image.
        augmentation: of training images.
        class_weights: sampling weight of one image of each class [K]; None takes every image once an epoch.
        batch_size: images in a batch.
        num_workers: loader processes.
        on_error: raise or skip at an unreadable image.
        seed: of the sampler and the augmentation.
        stores: decoded pixels on disk, by split.
        on_device: whether batches are prefetched and augmented on the device, as is fast with a GPU.
        min_batch_size: fewest images in a training batch, of all processes together.
        replay: old training images, of which an epoch has some.

    Attributes:
        batches_per_step: training batches whose gradients are accumulated for one step.
        num_batches: most batches of a training epoch; the images left out differ from epoch to epoch.
        share: the part of each batch that this process loads; all of it unless several processes train together.
    """

    def __init__(
        self,
        data: SplitData,
        *,
        preprocessing: Preprocessing,
        augmentation: Transforms,
        class_weights: NDArray[np.float64] | None,
        batch_size: int,
        num_workers: int,
        on_error: Literal["raise", "skip"],
        seed: int,
        stores: Mapping[str, TableStore] | None = None,
        on_device: bool = False,
        min_batch_size: int = 1,
        replay: Replay | None = None,
    ) -> None:
        super().__init__()
        self._stores = stores or {}
        self._reported: set[str] = set()
        self._on_device = on_device
        self.data = data
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.batches_per_step = 1
        self.num_batches: int | None = None
        self._min_batch_size = min_batch_size
        self.num_workers = num_workers
        self.on_error = on_error
        self.seed = seed
        self.share = Share()
        self.sampler = EpochSampler(data.tables[TRAIN].targets, class_weights, seed=seed, replay=replay)

    @property
    def train_batch_sizes(self) -> list[int]:
        """Images in each batch of a training epoch; see `batch_sizes`."""
        return batch_sizes(
            len(self.sampler),
            self.batch_size,
            per_step=self.batches_per_step,
            smallest=self._min_batch_size,
        )[: self.num_batches]

    def train_dataloader(self) -> BatchLoader:
        """Augmented training images in the sampler's order."""
        dataset = self._dataset(self.data.tables[TRAIN], augmentation=self.augmentation)
        return self._loader(dataset, self.sampler, sizes=self.train_batch_sizes)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Augment the batch on the device, unless it is done already."""
        if batch.draws is None:
            return batch
        return batch._replace(images=augment(batch.images, batch.draws, self.augmentation), draws=None)

    def val_dataloader(self) -> Iterable[Batch]:
        """Validation images in order."""
        return self.evaluation_loader(VAL) if VAL in self.data.tables else []

    def test_dataloader(self) -> Iterable[Batch]:
        """Test images in order."""
        return self.evaluation_loader(TEST) if TEST in self.data.tables else []

    def evaluation_loader(self, split: str, *, limit: int | None = None) -> BatchLoader:
        """Images of any split without augmentation.

        Args:
            split: its name.
            limit: number of images chosen at random by the run's seed if the split has more; else all in order. Of
                training images, new ones are chosen before those that are replayed, and these evenly over the classes.
        """
        table = self.data.tables[split]
        dataset = self._dataset(table, augmentation=None)
        if limit is None or limit >= len(table):
            return self._loader(dataset, EpochSampler(table.targets))
        order = self.sampler.all_new(limit) if split == TRAIN else EpochSampler(table.targets, seed=self.seed)
        return self._loader(dataset, order, sizes=batch_sizes(limit, self.batch_size))

    def _dataset(self, table: SplitTable, *, augmentation: Transforms | None) -> ImageDataset:
        store = self._stores.get(table.name)
        crop_scale = 1.0 if augmentation is None else augmentation.crop_scale
        return ImageDataset(
            table,
            # If a store has some of the pixels, the others must be made in the same way.
            pixel_format=store.folder.pixel_format
            if store
            else PixelFormat(preprocessing=self.preprocessing, crop_scale=crop_scale),
            augmentation=augmentation,
            seed=self.seed,
            on_error=self.on_error,
            reported=self._reported,
            store=store,
            augments=not self._on_device,
        )

    def _loader(
        self, dataset: ImageDataset, sampler: EpochSampler, *, sizes: Sequence[int] | None = None
    ) -> BatchLoader:
        return BatchLoader(
            dataset,
            sampler,
            batch_size=self.batch_size,
            sizes=sizes,
            num_workers=self.num_workers,
            loads_ahead=self._on_device,
            share=self.share,
        )


def choose_num_workers(wanted: int | Literal["auto"], *, accelerator: str, num_ranks: int = 1) -> int:
    """Resolve auto: with CUDA its share of the cores, up to eight; none on CPU and MPS, where workers slow training."""
    if wanted != "auto":
        return wanted
    return min(max(1, num_cores() // num_ranks), MAX_AUTO_WORKERS) if accelerator == "cuda" else 0
