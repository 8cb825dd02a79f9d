"""ONNX: the network alone, and with its preprocessing."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.register import register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="onnx")
def onnx(job: ExportJob, *, opset: Annotated[int, Field(ge=11, le=25)] | None = None) -> list[ExportedFile]:
    """ONNX: model.onnx, pipeline.onnx with the preprocessing inside, and golden/ to check other clients with.

    Args:
        opset: version of the ONNX operators, of model.onnx and pipeline.onnx alike; the exporter's own choice when left
            out. Lower ones load in older runtimes.

    Raises:
        UserError: for an opset that lacks an operator of the network.
        CheckFailedError: when a file answers differently from PyTorch.
    """
    from classifier_training.evaluation.calibration import scale_probabilities
    from classifier_training.export.calibrate import calibrate
    from classifier_training.export.golden import write_golden
    from classifier_training.export.job import ExportedFile
    from classifier_training.export.onnx import export_onnx
    from classifier_training.export.pipeline import write_pipeline
    from classifier_training.export.session import onnx_runner
    from classifier_training.export.verify import verify_pipeline

    target, preprocessing = job.target, job.info.preprocessing
    export_onnx(job.network, target.onnx, image_size=job.image_size, opset=opset, metadata=job.info.metadata())
    calibration = None
    if job.tables is not None:
        calibration = calibrate(target.onnx, job.info.class_names, preprocessing, job.tables)
    baked = calibration.temperature if job.bake_temperature and calibration is not None else None
    write_pipeline(target.onnx, preprocessing, target.pipeline, temperature=baked)
    alone = dataclasses.replace(job.finish(target.onnx, "onnx", onnx_runner(target.onnx)), calibration=calibration)
    expected = scale_probabilities(job.expected, baked or 1.0)
    parity = verify_pipeline(target.pipeline, preprocessing, expected, job.examples) if job.verify else None
    whole = ExportedFile(
        path=target.pipeline, format_name="onnx", parity=parity, note="" if job.verify else "verify=false"
    )

    def answer(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return scale_probabilities(job.answer(inputs), 1.0 if calibration is None else calibration.temperature)

    write_golden(target.golden, job.examples.paths, preprocessing, answer, job.info.class_names)
    return [alone, whole]
