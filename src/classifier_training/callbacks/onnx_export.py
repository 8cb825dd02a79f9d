"""The exported model, written when training ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.callbacks.observer import Observer
from classifier_training.core.register import register

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import FitEnd, RunContext

log = logging.getLogger(__name__)


@register(group="callbacks", name="onnx_export")
@dataclass(frozen=True, kw_only=True)
class OnnxExport(Observer):
    """Writes model.onnx, model.safetensors, labels_mapping.json and model_info.json, and checks the ONNX file.

    Args:
        opset: version of the ONNX operators; the exporter's own choice when left out.
    """

    opset: Annotated[int, Field(ge=18, le=25)] | None = None

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:
        """Export the best weights and compare with PyTorch on validation images.

        Raises:
            CheckFailedError: when the exported file answers differently.
        """
        from classifier_training.export.bundle import BundleInfo
        from classifier_training.export.write import write_bundle

        parity = write_bundle(
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
                    "config": dict(run.config),
                },
            ),
            images=run.validation_images(NUM_PARITY_IMAGES),
            opset=self.opset,
        )
        log.info(
            "model.onnx agrees with PyTorch on %d of %d images; probabilities differ by at most %.1e",
            round(parity.top1_agreement * parity.num_images), parity.num_images, parity.max_probability_difference,
        )  # fmt: skip


NUM_PARITY_IMAGES = 28
