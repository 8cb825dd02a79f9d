"""Whether an exported file answers as PyTorch does, on real images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.types import softmax
from classifier_training.export.onnx import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

BATCH_SIZES = (1, 2, 7)
TOLERANCE = 1e-3
"""Largest difference of a probability that passes."""


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from PyTorch.

    Args:
        num_images: real images compared, at every batch size.
        batch_sizes: that were run.
        top1_agreement: share of images with the same likeliest class, at the worst batch size.
        max_probability_difference: over images, classes and batch sizes.
    """

    num_images: int
    batch_sizes: tuple[int, ...]
    top1_agreement: float
    max_probability_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        return {**asdict(self), "batch_sizes": list(self.batch_sizes)}


def verify_onnx(path: Path, network: nn.Module, inputs: NDArray[np.float32]) -> Parity:
    """Compare an ONNX file with the network it came from.

    Args:
        path: the file.
        network: in evaluation mode, on the CPU.
        inputs: real images, float32 [N, 3, H, W] normalised.

    Raises:
        CheckFailedError: when a probability is further off than the tolerance, or a clear answer changes.
    """
    import onnxruntime

    with torch.inference_mode():
        expected = softmax(network(torch.from_numpy(inputs)).numpy())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    agreement, difference, changed = 1.0, 0.0, 0
    for batch_size in BATCH_SIZES:
        logits = [
            session.run([OUTPUT_NAME], {INPUT_NAME: inputs[start : start + batch_size]})[0]
            for start in range(0, len(inputs), batch_size)
        ]
        found = softmax(np.concatenate(logits))
        same = found.argmax(axis=1) == expected.argmax(axis=1)
        top2 = np.sort(expected, axis=1)[:, -2:]
        # Two classes that PyTorch itself can hardly tell apart may swap within the tolerance.
        changed = max(changed, int((~same & (top2[:, 1] - top2[:, 0] > 2 * TOLERANCE)).sum()))
        agreement = min(agreement, float(same.mean()))
        difference = max(difference, float(np.abs(found - expected).max()))
    parity = Parity(len(inputs), BATCH_SIZES, agreement, difference)
    if changed or difference > TOLERANCE:
        raise CheckFailedError(
            f"{path}: answers differ from PyTorch's: top-1 agreement {agreement:.2%}, probabilities up to "
            f"{difference:.2g} apart on {len(inputs)} validation images",
            f"the same answers, and probabilities within {TOLERANCE:g}",
            "try another opset (callbacks.onnx_export.opset=20) or report the architecture",
        )
    return parity
