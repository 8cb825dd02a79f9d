"""The exported model, written when training ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.callbacks.observer import Observer
from classifier_training.core.register import register
from classifier_training.core.types import VAL

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import FitEnd, RunContext

log = logging.getLogger(__name__)


@register(group="callbacks", name="onnx_export")
@dataclass(frozen=True, kw_only=True)
class OnnxExport(Observer):
    """Writes model.onnx, pipeline.onnx and what belongs to them, and compares both with PyTorch.

    Args:
        opset: version of the ONNX operators; the exporter's own choice when left out.
        bake_temperature: let pipeline.onnx itself give calibrated probabilities; otherwise its metadata has the
            temperature, which predict and the clients apply.
    """

    opset: Annotated[int, Field(ge=18, le=25)] | None = None
    bake_temperature: bool = False

    def fit_started(self, run: RunContext) -> None:
        """Refuse, before any training, what could not be done behind it.

        Raises:
            UserError: when a temperature is wanted and there are too few images to fit it on.
        """
        if self.bake_temperature:
            from classifier_training.export.calibrate import check_bakeable

            check_bakeable(run.tables[VAL])

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Export the best weights, compare with PyTorch and calibrate on validation images.

        Raises:
            CheckFailedError: when the exported file answers differently.
        """
        from classifier_training.export.bundle import BundleInfo
        from classifier_training.export.examples import read_examples
        from classifier_training.export.write import write_bundle

        files = write_bundle(
            run.run_dir,
            run.model,
            BundleInfo(
                class_names=run.class_names,
                preprocessing=run.preprocessing,
                architecture=run.model.architecture,
                training_info={
                    "best_metric": {"name": run.monitor, "value": end.best_score},
                    "epoch": end.best_epoch,
                    "num_epochs": len(end.rows),
                    "weights": run.model.weights.to_dict() if run.model.weights else None,
                    "config": dict(run.config),
                },
            ),
            examples=read_examples(run.tables[VAL], run.preprocessing, number=NUM_PARITY_IMAGES),
            opset=self.opset,
            tables=run.tables,
            bake_temperature=self.bake_temperature,
        )
        for file in files:
            log.info("%s", file)


NUM_PARITY_IMAGES = 28
