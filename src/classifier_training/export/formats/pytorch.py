"""What PyTorch runs: networks as functions of arrays, and its own formats, TorchScript and weights in safetensors."""

from __future__ import annotations

import copy
import json
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.run_dir import RunDir, atomic_path
from classifier_training.export.job import ExportFormat
from classifier_training.export.sharing import write_hub_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

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
            sort_metadata(temporary)
        write_hub_config(RunDir(path.parent).hub_config, job.network, job.info)

    def open(self, job: ExportJob, path: Path) -> Runner:
        """Run a network with the weights that were read back."""
        from safetensors.torch import load_file

        restored = copy.deepcopy(job.network)
        restored.load_state_dict(load_file(path))
        return torch_runner(restored)


def open_torchscript(path: Path, *, threads: int) -> Runner:
    """Open a TorchScript file on the CPU, with so many threads.

    Raises:
        UserError: when it cannot be loaded.
    """
    import torch

    torch.set_num_threads(threads)
    try:
        network = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be loaded ({error})", "the file that the run exported", "export it again"
        ) from error
    return torch_runner(network)


def open_network(network: nn.Module, *, threads: int, compiled: bool) -> Runner:
    """Run a network in PyTorch on the CPU, as it is or compiled, with so many threads."""
    import torch

    torch.set_num_threads(threads)
    # A form for each batch size: what is compiled for any size is slower at each.
    return torch_runner(torch.compile(network, dynamic=False) if compiled else network)


def sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in the order of its keys: its writer's order is another in every process.

    The same weights then make the same file. The header keeps its length; what it gets shorter by is blanks, which the
    format allows at its end.
    """
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def torch_runner(network: Callable[..., object]) -> Runner:
    """Make a function of arrays out of one of tensors."""
    import torch

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(inputs))
            assert isinstance(logits, torch.Tensor)
            return logits.numpy()

    return run
