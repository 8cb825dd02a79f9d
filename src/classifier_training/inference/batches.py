"""Predictions in fixed batches: slices of the source, whichever process or machine computes each of them.

The other images of a batch decide the last bits of a logit, so equal batches give equal predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.core.columns import Texts
from classifier_training.inference.sources import Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Plan:
    """The batches of a source.

    Args:
        items: the images, in their order.
        batch_size: images in a batch; the last one may have fewer.
    """

    def __init__(self, items: Iterable[Item], batch_size: int) -> None:
        self.batch_size = batch_size
        self.errors: dict[int, str] = {}
        self.paths = Texts.of(self._paths(items))

    def _paths(self, items: Iterable[Item]) -> Iterator[str]:
        for number, item in enumerate(items):
            if item.error is not None:
                self.errors[number] = item.error
            yield item.path

    def __len__(self) -> int:
        return -(-len(self.paths) // self.batch_size)

    def __iter__(self) -> Iterator[list[Item]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> list[Item]:
        """Return the items of a batch; they have paths and errors, and no names."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        begin = number * self.batch_size
        paths = self.paths[begin : begin + self.batch_size]
        return [Item(path, "", error=self.errors.get(begin + place)) for place, path in enumerate(paths)]
