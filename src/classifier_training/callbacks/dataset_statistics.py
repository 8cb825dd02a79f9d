"""What the run is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.callbacks.observer import Observer
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_json
from classifier_training.evaluation.figures.dataset import ClassBarsFigure, ImageSizesFigure

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import RunContext


@register(group="callbacks", name="dataset_statistics")
@dataclass(frozen=True, kw_only=True)
class DatasetStatistics(Observer):
    """Writes dataset/statistics.json and draws class counts and image sizes."""

    def fit_started(self, run: RunContext) -> None:
        """Write the figures and hand the images to the drawer."""
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
