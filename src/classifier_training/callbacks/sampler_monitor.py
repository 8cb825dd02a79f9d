"""What the sampler makes of the class counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.callbacks.observer import Observer
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_csv
from classifier_training.core.types import TRAIN
from classifier_training.evaluation.figures.dataset import ClassBarsFigure

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import FitEnd, RunContext


@register(group="callbacks", name="sampler_monitor", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class SamplerMonitor(Observer):
    """Writes dataset/sampler_draws.csv and draws images and mean draws an epoch of each class."""

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Count the draws of every epoch again: they follow from seed and epoch alone."""
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
            series={"images": counts.astype(float), "mean draws an epoch": draws.mean(axis=0)},
            class_names=run.class_names,
            title="Images and draws of each class",
            x_label="images",
        )
        run.drawer.submit(figure, run.run_dir.dataset / "sampler_draws.png")
