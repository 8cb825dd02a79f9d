"""Opening ONNX files in ONNX Runtime. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import num_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

INPUT_NAME, OUTPUT_NAME = "input", "logits"

ERRORS_ONLY = 3
"""ONNX Runtime's log level that keeps its notes off the screen."""


def open_session(path: Path | bytes, *, num_threads: int | None = None) -> Any:
    """Open an ONNX file, or the bytes of one, on the CPU; `num_threads` is all cores when left out.

    Raises:
        UserError: when it is missing or no model that ONNX Runtime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or num_cores()
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        missing = not isinstance(path, bytes) and not path.exists()
        raise UserError(
            f"{path!s}: {'is missing' if missing else f'cannot be loaded ({error})'}",
            "the file that the run exported",
            "restore it from a copy of the run folder, or write it again: classifier-training export run=…",
        ) from error


def onnx_runner(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a function from inputs, float32 [B, 3, H, W], to logits, float32 [B, K]."""
    session = open_session(path)

    def run(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: inputs})[0], dtype=np.float32)

    return run
