"""Heat map of the validation answers after an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.callbacks.observer import Observer, is_shown
from classifier_training.core.register import register
from classifier_training.evaluation.figures.predictions import ConfusionMatrixFigure
from classifier_training.evaluation.metrics import confusion_counts

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import EpochEnd, RunContext


@register(group="callbacks", name="confusion_matrix", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix(Observer):
    """Draws epoch_NNN/confusion_matrix.png from the validation answers.

    Args:
        every_n_epochs: draw after every n-th epoch; about ten times in a run when left out.
    """

    every_n_epochs: Annotated[int, Field(ge=1)] | None = None

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """Hand the epoch's matrix to the drawer."""
        if not is_shown(run, end.epoch, self.every_n_epochs):
            return
        result = end.validation
        figure = ConfusionMatrixFigure(
            counts=confusion_counts(result.targets, result.predicted, len(run.class_names)),
            class_names=run.class_names,
            title=f"Validation, epoch {end.epoch}: balanced accuracy {result.metrics['balanced_accuracy']:.3f}",
        )
        run.drawer.submit(figure, run.run_dir.epoch(end.epoch) / "confusion_matrix.png")
