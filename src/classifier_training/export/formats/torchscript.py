"""TorchScript: runs in libtorch without Python."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from classifier_training.core.register import register
from classifier_training.core.run_dir import atomic_path
from classifier_training.export.contestants import torch_runner

if TYPE_CHECKING:
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
    return [job.finish(path, "torchscript", torch_runner(restored))]
