"""The forms of one network that a benchmark compares. Needs torch for those that are PyTorch's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Literal

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.export.session import Runner

Form = Literal["eager", "compiled", "torchscript", "onnx", "fp16", "int8"]
FORMS: tuple[Form, ...] = ("eager", "compiled", "torchscript", "onnx", "fp16", "int8")
TITLES: dict[str, str] = {
    "eager": "PyTorch eager",
    "compiled": "PyTorch compiled",
    "torchscript": "TorchScript",
    "onnx": "ONNX float32",
    "fp16": "ONNX fp16",
    "int8": "ONNX int8",
}

COMPILERS = ("c++", "g++", "clang++")


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler here."""
    return any(map(shutil.which, COMPILERS))


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


def torch_runner(network: Callable[..., object]) -> Runner:
    """Make a function of arrays out of one of tensors."""
    import torch

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(inputs))
            assert isinstance(logits, torch.Tensor)
            return logits.numpy()

    return run
