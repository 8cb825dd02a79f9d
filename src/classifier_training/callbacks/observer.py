"""What a callback is here: something that sees results and never the network at work."""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifier_training.core.runtime import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel, SplitResult, SplitTable
    from classifier_training.evaluation.drawing import Drawer


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What is known when training begins.

    Args:
        run_dir: where things are written.
        config: the run's configuration as plain values.
        class_names: [K].
        tables: the samples of each split.
        statistics: of the data set.
        image_sizes: width and height of each image, int64 [N, 2].
        draws: how often each class is drawn in an epoch, [K], by epoch number.
        model: the network and its name.
        preprocessing: what evaluation does to an image.
        monitor: metric that decides which weights are best.
        monitor_mode: max or min.
        max_epochs: planned length.
        num_trainable: parameters that learn in the first epoch.
        drawer: paints figures in the background.
        clock: takes the time of the run's parts.
    """

    run_dir: RunDir
    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    tables: Mapping[str, SplitTable]
    statistics: Mapping[str, Any]
    image_sizes: NDArray[np.int64]
    draws: Callable[[int], NDArray[np.int64]]
    model: BuiltModel
    preprocessing: Preprocessing
    monitor: str
    monitor_mode: str
    max_epochs: int
    num_trainable: int
    drawer: Drawer
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """What an epoch gave.

    Args:
        epoch: its number from 0.
        rows: one row of figures an epoch so far, this one last, as in metrics.csv.
        validation: answers on the validation split.
        best_epoch: number of the best epoch so far.
    """

    epoch: int
    rows: Sequence[Mapping[str, float]]
    validation: SplitResult
    best_epoch: int | None


SHOWN_EPOCHS = 10


def is_shown(run: RunContext, epoch: int, every_n_epochs: int | None) -> bool:
    """Whether an epoch is drawn.

    Args:
        run: its planned length counts.
        epoch: from 0.
        every_n_epochs: as configured; None draws about ten in a run, the first and the last planned one among them.
    """
    if every_n_epochs is not None:
        return epoch % every_n_epochs == 0
    return epoch % math.ceil(run.max_epochs / SHOWN_EPOCHS) == 0 or epoch + 1 == run.max_epochs


@dataclass(frozen=True, kw_only=True)
class FitEnd:
    """What training gave; the network now holds the best weights.

    Args:
        rows: one row of figures an epoch.
        best_epoch: where the weights are from.
        best_score: the monitored metric there.
        share: of the weights of that epoch in a mean with those before the first one; 1 for these alone.
    """

    rows: Sequence[Mapping[str, float]]
    best_epoch: int
    best_score: float
    share: float = 1.0


class RunStopped(Exception):  # noqa: N818 - no error: an observer's wish
    """An observer raises it to end the run where it stands: nothing is exported or scored, and `train` lets it pass."""


class Observer:
    """A callback of ours: override what you need. Register it as `group="callbacks"`."""

    def fit_started(self, run: RunContext) -> None:
        """Training is about to begin."""

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """An epoch was trained and validated."""

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Training is over and the best weights are back. What is raised here is named, and ends nothing."""


_watching: ContextVar[tuple[Observer, ...]] = ContextVar("watching", default=())


@contextmanager
def watched_by(observer: Observer) -> Iterator[None]:
    """Have an observer see the runs that are made inside the block, besides those of their configuration."""
    token = _watching.set((*_watching.get(), observer))
    try:
        yield
    finally:
        _watching.reset(token)


def watching() -> tuple[Observer, ...]:
    """Return the observers of the blocks that this call is inside."""
    return _watching.get()
