"""TorchScript: runs in libtorch without Python."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from classifier_training.core.register import register
from classifier_training.core.run_dir import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.export.job import ExportedFile, ExportJob


@register(group="format", name="torchscript")
def torchscript(job: ExportJob) -> list[ExportedFile]:
    """TorchScript for libtorch: model.torchscript, class names and preprocessing in its extra files.

    Raises:
        CheckFailedError: when the file answers differently from PyTorch.
    """
    import torch

    path = job.target.torchscript
    example = torch.zeros(2, 3, job.image_size, job.image_size)
    with warnings.catch_warnings(), torch.inference_mode():
        # PyTorch would rather have torch.export; libtorch users still need this.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(job.network, example)  # type: ignore[no-untyped-call]
        with atomic_path(path) as temporary:
            torch.jit.save(traced, str(temporary), _extra_files=job.info.metadata())
        restored = torch.jit.load(str(path))  # type: ignore[no-untyped-call]

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            answer: NDArray[np.float32] = restored(torch.from_numpy(inputs)).numpy()
        return answer

    return [job.finish(path, "torchscript", run)]
