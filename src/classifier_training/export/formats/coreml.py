"""Core ML, for Apple devices."""

from __future__ import annotations

import shutil
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import require_extra
from classifier_training.core.register import register

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="coreml")
def coreml(job: ExportJob) -> list[ExportedFile]:
    """Core ML for Apple devices: model.mlpackage, one image at a time; compared on macOS, which alone can run it.

    Raises:
        UserError: when coremltools is not installed.
        CheckFailedError: when the file answers differently from PyTorch.
    """
    try:
        import coremltools as ct
    except ImportError as error:
        raise require_extra("coremltools", extra="coreml", purpose="format=coreml") from error
    import torch

    path = job.target.coreml
    shape = (1, 3, job.image_size, job.image_size)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(job.network, torch.zeros(shape))  # type: ignore[no-untyped-call]
        model: Any = ct.convert(
            traced,
            inputs=[ct.TensorType(name="input", shape=shape)],
            outputs=[ct.TensorType(name="logits")],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,
        )
    model.user_defined_metadata.update(job.info.metadata())
    if path.exists():
        shutil.rmtree(path)
    model.save(str(path))
    if sys.platform != "darwin":
        return [job.finish(path, "coreml", None, note="Core ML runs on macOS alone")]

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(model.predict({"input": inputs})["logits"], dtype=np.float32)

    return [job.finish(path, "coreml", run, batch_sizes=(1,))]
