"""The curves of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.callbacks.observer import Observer
from classifier_training.core.metrics import all_metrics
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_json
from classifier_training.core.types import PROBE_EPOCH, TRAIN, VAL
from classifier_training.evaluation.figures.training import HistoryFigure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.callbacks.observer import FitEnd, RunContext

LEARNING_RATE = "learning_rate"
PLOTS = {
    "loss": ("Loss", "cross-entropy"),
    "accuracy": ("Accuracy", "share of correct predictions"),
    LEARNING_RATE: ("Learning rate", "learning rate"),
}
"""File name to title and axis; the table of metrics says which curves a plot has."""


@register(group="callbacks", name="history")
@dataclass(frozen=True, kw_only=True)
class TrainingHistory(Observer):
    """Writes training_history.json and plots loss, accuracy and learning rate into training_history/."""

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Write the table and submit the plots."""
        write_json(run.run_dir.history, [dict(row) for row in end.rows])
        for name, (title, y_label) in PLOTS.items():
            columns = ["lr"] if name == LEARNING_RATE else _columns(name)
            curves = {column: _column(end.rows, column) for column in columns if column in end.rows[-1]}
            if not curves:
                continue
            figure = HistoryFigure(
                curves=curves,
                epochs=[int(row["epoch"]) for row in end.rows],
                title=title,
                y_label=y_label,
                best_epoch=None if end.best_epoch == PROBE_EPOCH else end.best_epoch,
                log_scale=name == LEARNING_RATE,
            )
            run.drawer.submit(figure, run.run_dir.history_plots / f"{name}.png")


def _columns(plot: str) -> list[str]:
    shown = [metric.main_column for metric in all_metrics() if metric.plot == plot]
    return [f"{split}/{name}" for name in shown for split in (TRAIN, VAL)]


def _column(rows: Sequence[Mapping[str, float]], name: str) -> list[float | None]:
    return [row.get(name) for row in rows]
