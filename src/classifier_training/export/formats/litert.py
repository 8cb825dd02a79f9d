"""LiteRT (TensorFlow Lite), for Android and microcontrollers."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import require_extra
from classifier_training.core.register import register
from classifier_training.core.run_dir import atomic_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="litert")
def litert(job: ExportJob) -> list[ExportedFile]:
    """LiteRT (TensorFlow Lite) for Android: model.tflite, one image at a time.

    Raises:
        UserError: when the converter is not installed.
        CheckFailedError: when the file answers differently from PyTorch.
    """
    try:
        import litert_torch
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise require_extra("litert-torch", extra="litert", purpose="format=litert") from error
    import torch

    path = job.target.litert
    example = torch.zeros(1, 3, job.image_size, job.image_size)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), atomic_path(path) as temporary:
        warnings.simplefilter("ignore")
        litert_torch.convert(job.network, (example,)).export(str(temporary))
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter.set_tensor(given["index"], inputs)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(returned["index"]), dtype=np.float32)

    return [job.finish(path, "litert", run, batch_sizes=(1,))]
