"""OpenVINO's format, for Intel processors, graphics and NPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import require_extra
from classifier_training.core.register import register

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="openvino")
def openvino(job: ExportJob) -> list[ExportedFile]:
    """OpenVINO's format for Intel hardware: openvino/model.xml and model.bin, in float32.

    Raises:
        UserError: when OpenVINO is not installed.
        CheckFailedError: when the file answers differently from PyTorch.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise require_extra("OpenVINO", extra="openvino", purpose="format=openvino") from error

    folder = job.target.openvino
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.xml"
    ov.save_model(ov.convert_model(str(job.onnx_source())), str(path), compress_to_fp16=False)
    # Its processors compute in 16 bits where they can unless told otherwise.
    compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(compiled([inputs])[0], dtype=np.float32)

    return [job.finish(folder, "openvino", run)]
