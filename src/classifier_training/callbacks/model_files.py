"""Files of the network: its summary at the start, and the exported model at the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.callbacks.observer import Observer
from classifier_training.core.register import register
from classifier_training.core.run_dir import write_text
from classifier_training.core.runtime import DETAIL
from classifier_training.core.types import TRAIN, VAL, spread_rows
from classifier_training.models.cost import summarize

if TYPE_CHECKING:
    from classifier_training.callbacks.observer import FitEnd, RunContext
    from classifier_training.export.write import BundleWriter

log = logging.getLogger(__name__)


@register(group="callbacks", name="model_info", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class ModelInfo(Observer):
    """Writes model_summary.txt: parameters, FLOPs and output shape of every layer."""

    def fit_started(self, run: RunContext) -> None:
        """Compute the summary from shapes; the network itself is not run."""
        summary = summarize(
            run.model.network,
            architecture=run.model.architecture,
            image_size=run.preprocessing.size[0],
            num_trainable=run.num_trainable,
        )
        write_text(run.run_dir.model_summary, summary.to_text())
        log.info(summary.to_text().partition("\n")[0], extra=DETAIL)


@register(group="callbacks", name="onnx_export", shows_only=True)
@dataclass(frozen=True, kw_only=True)
class OnnxExport(Observer):
    """Writes model.onnx, pipeline.onnx and their metadata, and compares both with PyTorch; see `finish_run`.

    Args:
        opset: version of the ONNX operators; the exporter's default when left out. Older runtimes need lower ones.
        bake_temperature: let pipeline.onnx return calibrated probabilities, as predict does; with false the temperature
            is only in its metadata, which the clients read.
    """

    opset: Annotated[int, Field(ge=11, le=25)] | None = None
    bake_temperature: bool = True

    def fit_started(self, run: RunContext) -> None:
        """Refuse an opset that cannot be exported, before training.

        Raises:
            UserError: for an opset that lacks an operator of the network.
        """
        if self.opset is not None:
            from classifier_training.export.formats.onnx import check_opset

            check_opset(run.model.network, image_size=run.preprocessing.size[0], opset=self.opset)

    def writer(self, run: RunContext, end: FitEnd) -> BundleWriter:
        """Return the writer of the bundle: it exports the best weights, checks the files and calibrates."""
        from classifier_training.export.bundle import BundleInfo
        from classifier_training.export.examples import read_examples
        from classifier_training.export.write import BundleWriter

        tables = dict(run.tables)
        if run.num_calibrated is not None:
            tables[TRAIN] = tables[TRAIN].at(spread_rows(len(tables[TRAIN]), run.num_calibrated))
        return BundleWriter(
            run.run_dir,
            run.model,
            BundleInfo(
                class_names=run.class_names,
                preprocessing=run.preprocessing,
                architecture=run.model.architecture,
                training_info={
                    "best_metric": {"name": run.monitor, "value": end.best_score},
                    "epoch": end.best_epoch,
                    "share": end.share,
                    "num_epochs": len(end.rows),
                    "weights": run.model.weights.to_dict() if run.model.weights else None,
                    "config": dict(run.config),
                },
            ),
            examples=lambda: read_examples(run.tables[VAL], run.preprocessing, number=NUM_PARITY_IMAGES),
            opset=self.opset,
            tables=tables,
            bake_temperature=self.bake_temperature,
        )


NUM_PARITY_IMAGES = 28
