"""A loader whose worker processes hand errors over whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from classifier_training.core.errors import UserError
from classifier_training.core.types import Batch, SampleKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.data.dataset import ImageDataset
    from classifier_training.data.samplers import EpochSampler


class BatchLoader(DataLoader[Batch]):
    """Loads the batches of one split, in this process or in others.

    torch makes an error of a worker anew from a single text, which ours cannot be made from, so they travel as values.

    Args:
        dataset: what to load.
        sampler: in which order.
        batch_size: images in a batch.
        drop_last: whether to leave out a last batch that is not whole.
        num_workers: loader processes.
    """

    def __init__(
        self, dataset: ImageDataset, sampler: EpochSampler, *, batch_size: int, drop_last: bool, num_workers: int
    ) -> None:
        super().__init__(
            _ErrorsAsValues(dataset),  # type: ignore[arg-type]
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=_already_collated,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            worker_init_fn=_one_thread,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return _raised(super().__iter__())


class _ErrorsAsValues(Dataset[Batch | UserError]):
    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, keys: list[SampleKey]) -> Batch | UserError:
        try:
            return self._dataset.__getitems__(keys)
        except UserError as error:
            return error


def _raised(batches: Iterable[Batch | UserError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _already_collated(batch: Any) -> Any:
    return batch


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
