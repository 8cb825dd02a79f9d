"""Real images that an export is checked on. Needs no torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.images import UnreadableImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.types import SplitTable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Images and what the network sees of them.

    Args:
        paths: image files [N].
        targets: right answers, int64 [N].
        inputs: the network's inputs, float32 [N, 3, H, W].
        groups: group of each image [N], empty where it has none.
    """

    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    inputs: NDArray[np.float32]
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)


def read_examples(table: SplitTable, preprocessing: Preprocessing, *, number: int) -> Examples:
    """Read up to `number` images spread evenly over a split, so over its classes.

    Raises:
        UserError: when none of them can be read.
    """
    return next(iterate_examples(table, preprocessing, batch_size=number, number=number))


def iterate_examples(
    table: SplitTable, preprocessing: Preprocessing, *, batch_size: int, number: int | None = None
) -> Iterator[Examples]:
    """Read a split, or `number` images spread evenly over it, one batch at a time; unreadable ones are left out.

    Raises:
        UserError: when none can be read.
    """
    wanted = min(number or len(table), len(table))
    rows = np.unique(np.linspace(0, len(table) - 1, wanted).round().astype(int)).tolist()
    found = False
    for start in range(0, len(rows), batch_size):
        kept, inputs = [], []
        for row in rows[start : start + batch_size]:
            try:
                inputs.append(preprocessing.tensor(preprocessing.read(table.paths[row])))
            except UnreadableImageError as error:
                log.warning("left out %s: %s", error.path, error.reason)
            else:
                kept.append(row)
        if kept:
            found = True
            yield Examples(
                tuple(table.paths[row] for row in kept),
                table.targets[kept],
                np.stack(inputs),
                tuple(table.groups[row] for row in kept),
            )
    if not found:
        raise UserError(
            f"none of {len(rows)} images of the {table.name} split can be read, such as {table.paths[rows[0]]}",
            "the images that the run was trained on, to check the export with",
            "put them back where they were",
        )
