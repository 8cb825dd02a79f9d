"""Validation images with their answers after an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from classifier_training.callbacks.observer import Observer, is_shown
from classifier_training.core.register import register
from classifier_training.evaluation.figures.grid import SampleGridFigure, Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.callbacks.observer import EpochEnd, RunContext
    from classifier_training.core.types import SplitResult


@register(group="callbacks", name="sample_grid", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class SampleGrid(Observer):
    """Draws epoch_NNN/sample_predictions.png: the most confident mistakes, then correct predictions.

    Args:
        every_n_epochs: draw after every n-th epoch; about ten times in a run when left out.
        num_images: images in the grid; at most half are mistakes.
    """

    every_n_epochs: Annotated[int, Field(ge=1)] | None = None
    num_images: Annotated[int, Field(ge=2, le=64)] = 16

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """Hand the epoch's images to the drawer."""
        if not is_shown(run, end.epoch, self.every_n_epochs):
            return
        result = end.validation
        chosen = choose_samples(result, self.num_images, seed=end.epoch)
        confidence = result.probabilities.max(axis=1)
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
            title=f"Validation, epoch {end.epoch}: {wrong} of {len(result.targets)} wrong, the surest of them first",
        )
        run.drawer.submit(figure, run.run_dir.epoch(end.epoch) / "sample_predictions.png")


def choose_samples(result: SplitResult, number: int, *, seed: int) -> NDArray[np.int64]:
    """Pick rows to show: up to half of them the most confident mistakes, the rest correct predictions at random."""
    correct = result.predicted == result.targets
    confidence = result.probabilities.max(axis=1)
    mistakes = np.flatnonzero(~correct)
    worst = mistakes[np.argsort(-confidence[mistakes], kind="stable")][: number // 2]
    right = np.random.default_rng(seed).permutation(np.flatnonzero(correct))[: number - len(worst)]
    return np.concatenate([worst, right])
