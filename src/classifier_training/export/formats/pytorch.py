"""Formats of PyTorch's own: TorchScript, and weights in safetensors."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.register import register
from classifier_training.core.run_dir import RunDir, atomic_path
from classifier_training.export.hub import write_hub_config
from classifier_training.export.job import ExportFormat
from classifier_training.export.session import torch_runner

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.export.job import ExportJob
    from classifier_training.export.session import Runner


@register(group="format", name="torchscript")
@dataclass(frozen=True, kw_only=True)
class TorchScript(ExportFormat):
    """TorchScript for libtorch: model.torchscript, class names and preprocessing in its extra files."""

    file = "model.torchscript"

    def write(self, job: ExportJob, path: Path) -> None:
        """Trace the network."""
        import torch

        example = torch.zeros(2, 3, job.image_size, job.image_size)
        with warnings.catch_warnings(), torch.inference_mode():
            # PyTorch would rather have torch.export; libtorch users still need this.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(job.network, example)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(path), _extra_files=job.info.metadata())

    def open(self, job: ExportJob, path: Path) -> Runner:  # noqa: ARG002 - the file needs nothing else
        """Run it in PyTorch."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch_runner(torch.jit.load(str(path)))  # type: ignore[no-untyped-call]


@register(group="format", name="safetensors")
@dataclass(frozen=True, kw_only=True)
class SafeTensors(ExportFormat):
    """Weights for PyTorch in model.safetensors, with class names and preprocessing in its metadata.

    Where timm has the network under the same name, config.json lets `timm.create_model("local-dir:…")` read them.
    """

    file = RunDir.weights.relative

    def write(self, job: ExportJob, path: Path) -> None:
        """Write the weights, and beside them what timm needs to read them."""
        from safetensors.torch import save_file

        with atomic_path(path) as temporary:
            state = {name: value.contiguous() for name, value in job.network.state_dict().items()}
            save_file(state, temporary, metadata=job.info.metadata())
        write_hub_config(RunDir(path.parent).hub_config, job.network, job.info)

    def open(self, job: ExportJob, path: Path) -> Runner:
        """Run a network with the weights that were read back."""
        from safetensors.torch import load_file

        restored = copy.deepcopy(job.network)
        restored.load_state_dict(load_file(path))
        return torch_runner(restored)
