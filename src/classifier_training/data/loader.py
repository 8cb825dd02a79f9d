"""A loader that takes processes while pictures are decoded, and none once their pixels are on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from classifier_training.core.errors import UserError
from classifier_training.core.types import Batch, SampleKey
from classifier_training.data.ahead import ahead
from classifier_training.data.dataset import Loaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.data.dataset import ImageDataset
    from classifier_training.data.samplers import EpochSampler

WARM_SHARE = 0.02
"""Share of an epoch's pictures that may have to be decoded for processes not to be worth their while."""


class BatchLoader(DataLoader[Batch]):
    """Loads the batches of one split, in this process or in others, and lets the store keep what was decoded.

    torch makes an error of a worker anew from a single text, which ours cannot be made from, so they travel as values.

    Args:
        dataset: what to load.
        sampler: in which order.
        batch_size: images in a batch.
        drop_last: whether to leave out a last batch that is not whole.
        num_workers: loader processes, while pictures are decoded.
        loads_ahead: whether a thread of this process loads the next batches; beside a GPU, not beside a busy CPU.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: EpochSampler,
        *,
        batch_size: int,
        drop_last: bool,
        num_workers: int,
        loads_ahead: bool = False,
    ) -> None:
        super().__init__(
            _ErrorsAsValues(dataset),  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=_already_collated,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_one_thread,
        )
        self._images = dataset
        self._order = sampler
        self._loads_ahead = loads_ahead

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        if self.num_workers and not self._is_warm():
            batches = self._stored(super().__iter__())
        else:
            self._end_workers()
            assert self.batch_sampler is not None
            batches = self._stored(self._images.load(keys) for keys in self.batch_sampler)
        pinned = (_pin(batch) for batch in batches) if torch.cuda.is_available() else batches
        return ahead(pinned) if self._loads_ahead else pinned

    def _is_warm(self) -> bool:
        store = self._images.store
        return store is not None and bool((~store.has(self._order.rows)).mean() <= WARM_SHARE)

    def _stored(self, found: Iterable[Loaded | UserError]) -> Iterator[Batch]:
        store = self._images.store
        is_new = False
        for number, loaded in enumerate(found, start=1):
            if isinstance(loaded, UserError):
                raise loaded
            for row, pixels in loaded.decoded:
                assert store is not None
                store.add(row, pixels)
                is_new = True
            # Before the last batch: Lightning counts, and takes the generator down instead of running it to its end,
            # where an interrupt would be lost.
            if number == len(self) and is_new and store is not None:
                store.commit()
                # They do not know what is new in the store.
                self._end_workers()
                yield loaded.batch
                return
            yield loaded.batch

    def _end_workers(self) -> None:
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001
            self._iterator = None


class _ErrorsAsValues(Dataset[Loaded | UserError]):
    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, keys: list[SampleKey]) -> Loaded | UserError:
        try:
            return self._dataset.load(keys)
        except UserError as error:
            return error


def _pin(batch: Batch) -> Batch:
    draws = None if batch.draws is None else batch.draws.pin_memory()
    return Batch(batch.images.pin_memory(), batch.targets.pin_memory(), batch.indices.pin_memory(), draws)


def _already_collated(batch: Any) -> Any:
    return batch


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
