"""Whether an exported file answers as PyTorch does, on real images. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.images import read_rgb
from classifier_training.core.types import softmax
from classifier_training.export.pipeline import IMAGE_NAME, PIXELS_NAME, PROBABILITIES_NAME, with_pixels
from classifier_training.export.session import open_session

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.export.examples import Examples
    from classifier_training.export.session import Runner

BATCH_SIZES = (1, 2, 7)
TOLERANCE = 1e-3
"""Largest difference of a probability that passes."""

PIXEL_TOLERANCE = 1
"""Largest difference of a pixel of 0..255 that passes."""

CLEAR_MARGIN = 0.1
"""An answer that leads by more than this must survive a pixel's difference of one step."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported file is from PyTorch, or from the file it was made of.

    Args:
        num_images: real images compared, at every batch size.
        batch_sizes: that were run.
        top1_agreement: share of images with the same likeliest class, at the worst batch size.
        max_probability_difference: over images, classes and batch sizes.
        accuracy: share of right answers of the file, at the worst batch size.
        reference_accuracy: and of what it was compared with.
        max_pixel_difference: of 255, before mean and std, for files that hold the preprocessing.
        reference: what it was compared with.
    """

    num_images: int
    batch_sizes: tuple[int, ...]
    top1_agreement: float
    max_probability_difference: float
    accuracy: float
    reference_accuracy: float
    max_pixel_difference: float | None = None
    reference: str = "PyTorch"

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        found = {**asdict(self), "batch_sizes": list(self.batch_sizes)}
        return {name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        return (
            f"agrees with {self.reference} on {round(self.top1_agreement * self.num_images)} of {self.num_images} "
            f"images; probabilities differ by at most {self.max_probability_difference:.1e}; accuracy "
            f"{self.accuracy:.3f} against {self.reference_accuracy:.3f}"
        )


def verify(
    path: Path,
    runner: Runner,
    expected: NDArray[np.float32],
    examples: Examples,
    *,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> Parity:
    """Compare an exported file with PyTorch's answers.

    Args:
        path: the file, for messages.
        runner: runs it.
        expected: PyTorch's probabilities for the examples [N, K].
        examples: real images.
        batch_sizes: to run it at.

    Raises:
        CheckFailedError: when a probability is further off than the tolerance, or a clear answer changes.
    """
    found = {
        size: softmax(
            np.concatenate([runner(examples.inputs[start : start + size]) for start in range(0, len(examples), size)])
        )
        for size in batch_sizes
    }
    parity = compare(found, expected, examples.targets)
    # Two classes that PyTorch itself can hardly tell apart may swap within the tolerance.
    changed = sum(_changed(shares, expected, margin=2 * TOLERANCE) for shares in found.values())
    if changed or parity.max_probability_difference > TOLERANCE:
        raise CheckFailedError(
            f"{path.name}: answers differ from PyTorch's: top-1 agreement {parity.top1_agreement:.2%}, probabilities "
            f"up to {parity.max_probability_difference:.2g} apart on {parity.num_images} images",
            f"the same answers, and probabilities within {TOLERANCE:g}",
            "try another opset (callbacks.onnx_export.opset=20, or export format.onnx.opset=20) or report the "
            "architecture",
        )
    return parity


def verify_pipeline(
    path: Path, preprocessing: Preprocessing, expected: NDArray[np.float32], examples: Examples
) -> Parity:
    """Compare a pipeline, from whole pictures to probabilities, with Python's preprocessing and PyTorch's answers.

    Args:
        path: the file.
        preprocessing: what it should do.
        expected: PyTorch's probabilities for the examples [N, K].
        examples: real images; they are read again, at their own size.

    Raises:
        CheckFailedError: when a pixel is off by more than one step of 255, or a clear answer changes.
    """
    session = open_session(with_pixels(path, preprocessing.size))
    found, pixel_difference = np.empty_like(expected), 0.0
    for row, image_path in enumerate(examples.paths):
        image = read_rgb(image_path)
        found[row], pixels = session.run([PROBABILITIES_NAME, PIXELS_NAME], {IMAGE_NAME: np.asarray(image)})
        wanted = preprocessing.pixels(image).astype(np.float32)
        pixel_difference = max(pixel_difference, float(np.abs(pixels[0].transpose(1, 2, 0) - wanted).max()))
    parity = compare({1: found}, expected, examples.targets, max_pixel_difference=pixel_difference)
    if pixel_difference > PIXEL_TOLERANCE or _changed(found, expected, margin=CLEAR_MARGIN):
        raise CheckFailedError(
            f"{path.name}: does not do what Python does with the same pictures: pixels up to {pixel_difference:g} of "
            f"255 apart, top-1 agreement {parity.top1_agreement:.2%} on {parity.num_images} images",
            f"pixels within {PIXEL_TOLERANCE} of 255 and the same answers",
            "report the sizes of the pictures and your version of onnxruntime",
        )
    return parity


def compare(
    found: dict[int, NDArray[np.float32]],
    expected: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    max_pixel_difference: float | None = None,
) -> Parity:
    """Compare probabilities [N, K], found at each batch size, with the expected ones."""
    likeliest = expected.argmax(axis=1)
    return Parity(
        num_images=len(expected),
        batch_sizes=tuple(found),
        top1_agreement=min(float((shares.argmax(axis=1) == likeliest).mean()) for shares in found.values()),
        max_probability_difference=max(float(np.abs(shares - expected).max()) for shares in found.values()),
        accuracy=min(float((shares.argmax(axis=1) == targets).mean()) for shares in found.values()),
        reference_accuracy=float((likeliest == targets).mean()),
        max_pixel_difference=max_pixel_difference,
    )


def _changed(found: NDArray[np.float32], expected: NDArray[np.float32], *, margin: float) -> int:
    """Count the answers that differ though the expected one led by more than the margin."""
    second, first = np.sort(expected, axis=1)[:, -2:].T
    return int(((found.argmax(axis=1) != expected.argmax(axis=1)) & (first - second > margin)).sum())
