"""Predictions in fixed batches: slices of the source, whichever process or machine computes each of them.

The other images of a batch decide the last bits of a logit, so equal batches give equal answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifier_training.inference.listing import Texts
from classifier_training.inference.sources import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from classifier_training.inference.predictor import Predictor
    from classifier_training.inference.rows import Row, RowSettings


class Plan:
    """The batches of a source.

    Args:
        items: the images, in their order.
        batch_size: images in a batch; the last one may have fewer.
    """

    def __init__(self, items: Iterable[Item], batch_size: int) -> None:
        self.batch_size = batch_size
        self.paths = Texts()
        self.errors: dict[int, str] = {}
        for number, item in enumerate(items):
            self.paths.append(item.path)
            if item.error is not None:
                self.errors[number] = item.error

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


@dataclass
class BatchPredictor:
    """From a batch of items to its rows. It can be pickled; each process opens the model for itself, when first needed.

    Args:
        open_predictor: opens the model; a function of a module, or a partial of one.
        settings: of the rows.
    """

    open_predictor: Callable[[], Predictor]
    settings: RowSettings
    _predictor: Predictor | None = field(default=None, init=False, repr=False, compare=False)

    def __call__(self, items: Sequence[Item]) -> list[Row]:
        """Return the rows of one batch, those of `predict` on the same batch."""
        if self._predictor is None:
            self._predictor = self.open_predictor()
        return self._predictor.rows(items, self.settings)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_predictor": None}
