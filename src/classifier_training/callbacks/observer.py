"""Observers: callbacks that see the results of a run and never run its network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifier_training.core.runtime import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel, SplitResult, SplitTable
    from classifier_training.evaluation.drawing import Drawer


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The run as it is when training starts.

    Args:
        run_dir: folder of the run.
        config: the run's configuration as plain values.
        class_names: [K].
        tables: the samples of each split.
        statistics: of the data set.
        image_sizes: width and height of each image [N, 2].
        draws: number of samples drawn of each class in an epoch, [K], by epoch number.
        model: the network and its name.
        preprocessing: what evaluation does to an image.
        monitor: metric that selects the best weights.
        monitor_mode: max or min.
        max_epochs: planned length.
        num_trainable: trainable parameters in the first epoch.
        drawer: plots figures in the background.
        clock: measures the time of the run's parts.
        num_calibrated: training images that the exported file is calibrated with; None for as many as usual.
    """

    run_dir: RunDir
    config: Mapping[str, Any]
    class_names: tuple[str, ...]
    tables: Mapping[str, SplitTable]
    statistics: Mapping[str, Any]
    image_sizes: NDArray[np.integer[Any]]
    draws: Callable[[int], NDArray[np.int64]]
    model: BuiltModel
    preprocessing: Preprocessing
    monitor: str
    monitor_mode: str
    max_epochs: int
    num_trainable: int
    drawer: Drawer
    clock: Clock = field(default_factory=Clock)
    num_calibrated: int | None = None


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """Results of an epoch.

    Args:
        epoch: its number from 0.
        rows: one row of metrics per epoch so far, this one last, as in metrics.csv.
        validation: predictions on the validation split.
        best_epoch: number of the best epoch so far.
    """

    epoch: int
    rows: Sequence[Mapping[str, float]]
    validation: SplitResult
    best_epoch: int | None


SHOWN_EPOCHS = 10


def is_shown(run: RunContext, epoch: int, every_n_epochs: int | None) -> bool:
    """Whether an epoch is plotted.

    Args:
        run: for its planned length.
        epoch: from 0.
        every_n_epochs: as configured; None plots about ten in a run, including the first and the last planned one.
    """
    if every_n_epochs is not None:
        return epoch % every_n_epochs == 0
    return epoch % math.ceil(run.max_epochs / SHOWN_EPOCHS) == 0 or epoch + 1 == run.max_epochs


def metric_words(row: Mapping[str, float], monitor: str) -> str:
    """Return the metrics of an epoch's line.

    Args:
        row: of the epoch; a metric that is not defined for its predictions is not among them.
        monitor: metric to show besides the losses.
    """
    shown = dict.fromkeys(("train/loss", "val/loss", monitor))
    words = [f"{name} {row[name]:.4f}" for name in shown if name in row]
    return "  ".join(words if monitor in row else [*words, f"{monitor} - (not defined for these predictions)"])


@dataclass(frozen=True, kw_only=True)
class FitEnd:
    """Results of training; the network has the best weights now.

    Args:
        rows: one row of metrics per epoch.
        best_epoch: epoch of the weights.
        best_score: the monitored metric of that epoch.
        share: of that epoch's weights in the mean with the initial weights; 1 means no mean.
        ended: what ended training; empty where it is not known.
    """

    rows: Sequence[Mapping[str, float]]
    best_epoch: int
    best_score: float
    share: float = 1.0
    ended: str = ""


class RunStopped(Exception):  # noqa: N818 - no error, but a request
    """Raised by an observer to stop the run at once; nothing is exported or scored, and `train` does not catch it."""


class Observer:
    """Base class of callbacks: override the methods you need. Register it with `group="callbacks"`."""

    def fit_started(self, run: RunContext) -> None:
        """Called before training starts."""

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """Called after an epoch was trained and validated."""

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Called after training, with the best weights loaded. Errors raised here are logged and stop nothing."""
