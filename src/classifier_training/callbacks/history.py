"""The curves of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.callbacks.observer import Observer
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_json
from classifier_training.core.types import PROBE_EPOCH
from classifier_training.evaluation.figures.training import HistoryFigure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.callbacks.observer import FitEnd, RunContext

PLOTS = {
    "loss": ("Loss", "cross-entropy", ("train/loss", "val/loss")),
    "accuracy": (
        "Accuracy",
        "share of correct predictions",
        ("train/acc_top1", "val/acc_top1", "val/balanced_accuracy"),
    ),
    "learning_rate": ("Learning rate", "learning rate", ("lr",)),
}
"""File name to title, axis and curves."""


@register(group="callbacks", name="history", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class TrainingHistory(Observer):
    """Writes training_history.json and draws loss, accuracy and learning rate into training_history/."""

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Write the table and hand the curves to the drawer."""
        write_json(run.run_dir.history, [dict(row) for row in end.rows])
        for name, (title, y_label, columns) in PLOTS.items():
            curves = {column: _column(end.rows, column) for column in columns if column in end.rows[-1]}
            if not curves:
                continue
            figure = HistoryFigure(
                curves=curves,
                epochs=[int(row["epoch"]) for row in end.rows],
                title=title,
                y_label=y_label,
                best_epoch=None if end.best_epoch == PROBE_EPOCH else end.best_epoch,
                log_scale=name == "learning_rate",
            )
            run.drawer.submit(figure, run.run_dir.history_plots / f"{name}.png")


def _column(rows: Sequence[Mapping[str, float]], name: str) -> list[float | None]:
    return [row.get(name) for row in rows]
