"""The forms of one network that a benchmark holds against each other. Needs torch for those that are PyTorch's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

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

Answer = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
"""Inputs, float32 [B, 3, H, W] -> logits, float32 [B, K]."""


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler here."""
    return any(map(shutil.which, COMPILERS))


def open_onnx(path: Path, *, threads: int) -> Answer:
    """Open an ONNX file in ONNX Runtime on the CPU, with so many threads."""
    session = open_session(path, num_threads=threads)
    dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32

    def answer(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: inputs.astype(dtype, copy=False)})
        return np.asarray(logits, dtype=np.float32)

    return answer


def open_torchscript(path: Path, *, threads: int) -> Answer:
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
    return torch_answer(network)


def open_network(network: nn.Module, *, threads: int, compiled: bool) -> Answer:
    """Run a network in PyTorch on the CPU, as it is or compiled, with so many threads."""
    import torch

    torch.set_num_threads(threads)
    # A form for each batch size: what is compiled for any size is slower at each.
    return torch_answer(torch.compile(network, dynamic=False) if compiled else network)


def torch_answer(network: Callable[..., object]) -> Answer:
    """Make a function of arrays out of one of tensors."""
    import torch

    def answer(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(inputs))
            assert isinstance(logits, torch.Tensor)
            return logits.numpy()

    return answer
