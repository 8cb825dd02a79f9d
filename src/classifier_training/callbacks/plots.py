"""Plots of a run: its data, the samples drawn of each class, validation predictions, and the curves at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from classifier_training.callbacks.observer import Observer, is_shown
from classifier_training.core.metrics import all_metrics
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.types import PROBE_EPOCH, TRAIN, VAL, epoch_name
from classifier_training.evaluation.figures.dataset import ClassBarsFigure, ImageSizesFigure
from classifier_training.evaluation.figures.grid import SampleGridFigure, Tile
from classifier_training.evaluation.figures.predictions import ConfusionMatrixFigure
from classifier_training.evaluation.figures.training import HistoryFigure
from classifier_training.evaluation.metrics import confusion_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.callbacks.observer import EpochEnd, FitEnd, RunContext
    from classifier_training.core.types import SplitResult

LEARNING_RATE = "learning_rate"
PLOTS = {
    "loss": ("Loss", "cross-entropy"),
    "accuracy": ("Accuracy", "share of correct predictions"),
    LEARNING_RATE: ("Learning rate", "learning rate"),
}
"""File name to title and axis; the table of metrics says which curves a plot has."""


@register(group="callbacks", name="history", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class TrainingHistory(Observer):
    """Writes training_history.json and plots loss, accuracy and learning rate into training_history/."""

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Write the table and plot the curves in the background."""
        write_json(run.run_dir.history, [dict(row) for row in end.rows])
        for name, (title, y_label) in PLOTS.items():
            columns = ["lr"] if name == LEARNING_RATE else _columns(name)
            curves = {column: _column(end.rows, column) for column in columns if column in end.rows[-1]}
            if not curves:
                continue
            figure = HistoryFigure(
                curves=curves,
                epochs=[int(row["epoch"]) + 1 for row in end.rows],
                title=title,
                y_label=y_label,
                best_epoch=None if end.best_epoch == PROBE_EPOCH else end.best_epoch + 1,
                log_scale=name == LEARNING_RATE,
            )
            run.drawer.submit(figure, run.run_dir.history_plots / f"{name}.png")


def _columns(plot: str) -> list[str]:
    shown = [metric.main_column for metric in all_metrics() if metric.plot == plot]
    return [f"{split}/{name}" for name in shown for split in (TRAIN, VAL)]


def _column(rows: Sequence[Mapping[str, float]], name: str) -> list[float | None]:
    return [row.get(name) for row in rows]


@register(group="callbacks", name="confusion_matrix", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix(Observer):
    """Plots epoch_NNN/confusion_matrix.png from the validation predictions.

    Args:
        every_n_epochs: plot after every n-th epoch; about ten times in a run when left out.
    """

    every_n_epochs: Annotated[int, Field(ge=1)] | None = None

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """Plot the epoch's matrix in the background."""
        if not is_shown(run, end.epoch, self.every_n_epochs):
            return
        result = end.validation
        figure = ConfusionMatrixFigure(
            counts=confusion_counts(result.targets, result.predicted, len(run.class_names)),
            class_names=run.class_names,
            title=f"Validation, {epoch_name(end.epoch)}: balanced accuracy {result.metrics['balanced_accuracy']:.3f}",
        )
        run.drawer.submit(figure, run.run_dir.epoch(end.epoch) / "confusion_matrix.png")


@register(group="callbacks", name="sample_grid", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class SampleGrid(Observer):
    """Plots epoch_NNN/sample_predictions.png: the most confident mistakes, then correct predictions.

    Args:
        every_n_epochs: plot after every n-th epoch; about ten times in a run when left out.
        num_images: images in the grid; at most half of them mistakes.
    """

    every_n_epochs: Annotated[int, Field(ge=1)] | None = None
    num_images: Annotated[int, Field(ge=2, le=64)] = 16

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """Plot the epoch's images in the background."""
        if not is_shown(run, end.epoch, self.every_n_epochs):
            return
        result = end.validation
        chosen = choose_samples(result, self.num_images, seed=end.epoch)
        confidence = result.confidences
        paths = run.tables[result.split].paths
        wrong = int((result.predicted != result.targets).sum())
        figure = SampleGridFigure(
            tiles=tuple(
                Tile(
                    path=paths[result.indices[row]],
                    true_label=run.class_names[result.targets[row]],
                    predicted_label=run.class_names[result.predicted[row]],
                    confidence=float(confidence[row]),
                )
                for row in chosen
            ),
            title=f"Validation, {epoch_name(end.epoch)}: {wrong} of {len(result.targets)} wrong, most confident first",
        )
        run.drawer.submit(figure, run.run_dir.epoch(end.epoch) / "sample_predictions.png")


def choose_samples(result: SplitResult, number: int, *, seed: int) -> NDArray[np.int64]:
    """Choose rows to show: up to half are the most confident mistakes, the rest random correct predictions."""
    correct = result.predicted == result.targets
    confidence = result.confidences
    mistakes = np.flatnonzero(~correct)
    worst = mistakes[np.argsort(-confidence[mistakes], kind="stable")][: number // 2]
    right = np.random.default_rng(seed).permutation(np.flatnonzero(correct))[: number - len(worst)]
    return np.concatenate([worst, right])


@register(group="callbacks", name="dataset_statistics", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class DatasetStatistics(Observer):
    """Writes dataset/statistics.json and plots class counts and image sizes."""

    def fit_started(self, run: RunContext) -> None:
        """Write the statistics and plot them in the background."""
        write_json(run.run_dir.statistics, dict(run.statistics))
        counts = {name: table.class_counts(len(run.class_names)) for name, table in run.tables.items()}
        bars = ClassBarsFigure(
            series={name: values.astype(float) for name, values in counts.items()},
            class_names=run.class_names,
            title="Images of each class",
            x_label="images",
        )
        run.drawer.submit(bars, run.run_dir.dataset / "class_distribution.png")
        if len(run.image_sizes):
            sizes = ImageSizesFigure(sizes=run.image_sizes, input_size=run.preprocessing.size[0])
            run.drawer.submit(sizes, run.run_dir.dataset / "image_sizes.png")


@register(group="callbacks", name="sampler_monitor", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class SamplerMonitor(Observer):
    """Writes dataset/sampler_draws.csv and plots images and mean samples per epoch of each class."""

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Count the samples drawn in each epoch, which are a function of seed and epoch."""
        counts = run.tables[TRAIN].class_counts(len(run.class_names))
        epochs = [int(row["epoch"]) for row in end.rows]
        draws = np.stack([run.draws(epoch) for epoch in epochs])
        header = ("class", "images", "mean_draws_per_epoch", *(f"epoch_{epoch:03d}" for epoch in epochs))
        rows = (
            (name, int(count), f"{column.mean():.2f}", *column.tolist())
            for name, count, column in zip(run.class_names, counts, draws.T, strict=True)
        )
        write_csv(run.run_dir.dataset / "sampler_draws.csv", header, rows)
        figure = ClassBarsFigure(
            series={"images": counts.astype(float), "mean samples per epoch": draws.mean(axis=0)},
            class_names=run.class_names,
            title="Images and samples drawn of each class",
            x_label="images",
        )
        run.drawer.submit(figure, run.run_dir.dataset / "sampler_draws.png")
