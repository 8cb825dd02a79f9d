"""ONNX Runtime's own format, for its mobile and minimal builds."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from classifier_training.core.register import register
from classifier_training.core.run_dir import atomic_path

if TYPE_CHECKING:
    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="ort")
def ort(job: ExportJob) -> list[ExportedFile]:
    """ONNX Runtime's own format, for its mobile and minimal builds: model.ort.

    Raises:
        CheckFailedError: when the file answers differently from PyTorch.
    """
    import onnxruntime

    from classifier_training.export.session import ERRORS_ONLY, onnx_runner

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    # Level basic: the file may run on another processor than this one.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.save_model_format", "ORT")
    made = job.scratch / "model.ort"
    options.optimized_model_filepath = str(made)
    onnxruntime.InferenceSession(job.onnx_source(), options, providers=["CPUExecutionProvider"])
    path = job.target.ort
    with atomic_path(path) as temporary:
        shutil.copyfile(made, temporary)
    return [job.finish(path, "ort", onnx_runner(path))]
