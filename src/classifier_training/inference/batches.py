"""Predictions in fixed batches: slices of the source, whichever process or machine computes each of them.

The other images of a batch decide the last bits of a logit, so equal batches give equal answers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifier_training.inference.sources import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from classifier_training.inference.predictor import Predictor
    from classifier_training.inference.rows import Row, RowSettings

CHUNK = 1024
"""Texts that are kept together."""


class Texts:
    """File names in the order in which they were added, each in as many bytes as it has, and one for its end."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._last: list[str] = []

    def append(self, text: str) -> None:
        """Add a text without a zero byte."""
        self._last.append(text)
        if len(self._last) == CHUNK:
            self._chunks.append(os.fsencode("\0".join(self._last)))
            # A new list, because another thread may be reading this one.
            self._last = []

    def __len__(self) -> int:
        return len(self._chunks) * CHUNK + len(self._last)

    def __getitem__(self, wanted: slice) -> list[str]:
        """Return consecutive texts."""
        begin, end, _ = wanted.indices(len(self))
        first = begin // CHUNK
        found = [text for number in range(first, -(-end // CHUNK)) for text in self._chunk(number)]
        return found[begin - first * CHUNK : end - first * CHUNK]

    def _chunk(self, number: int) -> list[str]:
        return os.fsdecode(self._chunks[number]).split("\0") if number < len(self._chunks) else self._last


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
