"""Whether an exported file predicts what PyTorch predicts, on real images. Needs no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.preprocess import import_opencv
from classifier_training.core.runtime import command
from classifier_training.core.types import softmax
from classifier_training.export.pipeline import IMAGE_NAME, PIXELS_NAME, PROBABILITIES_NAME, preprocessing_part
from classifier_training.export.session import BATCH_SIZES, INPUT_NAME, open_session

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.export.examples import Examples
    from classifier_training.export.session import Runner

TOLERANCE = 1e-3
"""Largest difference of a probability that passes."""

PIXEL_TOLERANCE = 1
"""Largest difference of a pixel of 0..255 that passes."""

INPUT_TOLERANCE = 1e-5
"""Largest difference of the network's input that passes, of what Python makes of the same pixels: rounding alone."""

OPSET_REMEDY = (
    "try another opset (callbacks.onnx_export.opset=18, or export format.onnx.opset=18), or report the architecture"
)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far an exported file is from PyTorch, or from the file it was made of.

    Args:
        num_images: real images compared, at every batch size.
        batch_sizes: that were run.
        top1_agreement: share of images with the same most probable class, at the worst batch size.
        max_probability_difference: over images, classes and batch sizes.
        accuracy: share of correct predictions of the file, at the worst batch size.
        reference_accuracy: and of what it was compared with.
        max_pixel_difference: of 255, before mean and std, for files that hold the preprocessing.
        reference: what it was compared with.
        tolerance: largest difference of a probability that passes.
    """

    num_images: int
    batch_sizes: tuple[int, ...]
    top1_agreement: float
    max_probability_difference: float
    accuracy: float
    reference_accuracy: float
    max_pixel_difference: float | None = None
    reference: str = "PyTorch"
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether probabilities and pixels are within their tolerances."""
        return self.max_probability_difference <= self.tolerance and (self.max_pixel_difference or 0) <= PIXEL_TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        found = {"passed": self.passed, **asdict(self), "batch_sizes": list(self.batch_sizes)}
        return {name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        pixels, pixel_tolerance = "", ""
        if self.max_pixel_difference is not None:
            pixels = f", pixels by at most {self.max_pixel_difference:g} of 255"
            pixel_tolerance = f", pixels {PIXEL_TOLERANCE} of 255"
        return (
            f"agrees with {self.reference} on {round(self.top1_agreement * self.num_images)} of {self.num_images} "
            f"images; probabilities differ by at most {self.max_probability_difference:.1e}{pixels}; accuracy "
            f"{self.accuracy:.3f} vs. {self.reference_accuracy:.3f} on these images; "
            f"{'passed' if self.passed else 'FAILED'} (tolerance {self.tolerance:g}{pixel_tolerance})"
        )


def verify(
    path: Path,
    runner: Runner,
    expected: NDArray[np.float32],
    examples: Examples,
    *,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> Parity:
    """Compare an exported file with PyTorch's predictions.

    Args:
        path: the file, for messages.
        runner: runs it.
        expected: PyTorch's probabilities for the examples [N, K].
        examples: real images.
        batch_sizes: to run it at.

    Raises:
        CheckFailedError: when a probability is further off than the tolerance, or a clear prediction changes.
    """
    found = {
        size: softmax(
            np.concatenate([runner(examples.inputs[start : start + size]) for start in range(0, len(examples), size)])
        )
        for size in batch_sizes
    }
    for size, shares in found.items():
        if not np.isfinite(shares).all():
            raise CheckFailedError(
                f"{path.name}: its predictions are not finite for {int((~np.isfinite(shares)).any(axis=1).sum())} of "
                f"{len(shares)} images, in batches of {size}",
                "a finite number for each class",
                "look at the weights: training may have diverged; a lower optimizer.lr trains more steadily",
            )
    parity = compare(found, expected, examples.targets)
    # Two classes that PyTorch itself can hardly tell apart may swap within the tolerance.
    changed = sum(_changed(shares, expected, margin=2 * TOLERANCE) for shares in found.values())
    if changed or not parity.max_probability_difference <= TOLERANCE:
        raise CheckFailedError(
            f"{path.name}: predictions differ from PyTorch's: top-1 agreement {parity.top1_agreement:.2%}, "
            f"probabilities up to {parity.max_probability_difference:.2g} apart on {parity.num_images} images",
            f"the same predictions, and probabilities within {TOLERANCE:g}",
            OPSET_REMEDY if path.suffix == ".onnx" else f"look at what writes and opens {path.name}, or report it",
        )
    return parity


def verify_pipeline(
    path: Path,
    preprocessing: Preprocessing,
    predict: Runner,
    examples: Examples,
    *,
    reference: str = "PyTorch",
) -> Parity:
    """Compare a pipeline with its parts: its preprocessing with Python's, its probabilities with its network's.

    The network is asked about the input that the pipeline itself computes. Python's, which rounds otherwise in the last
    bit, could fall on the other side of a quantized network's step, and a pixel may be one step of 255 off.

    Args:
        path: the file.
        preprocessing: what it should do.
        predict: the network's probabilities, calibrated if the file's are, for an input float32 [1, 3, H, W].
        examples: real images; they are read again, at their own size.
        reference: name of the network that predicts.

    Raises:
        CheckFailedError: when a pixel is off by more than one step of 255, or a probability by more than the tolerance.
    """
    session, head = open_session(path), open_session(preprocessing_part(path, preprocessing.size))
    found, expected, pixel_difference, input_difference = [], [], 0.0, 0.0
    for image_path in examples.paths:
        image = preprocessing.read(image_path)
        given = {IMAGE_NAME: np.asarray(image)}
        found += session.run([PROBABILITIES_NAME], given)
        pixels, inputs = head.run([PIXELS_NAME, INPUT_NAME], given)
        expected.append(predict(inputs)[0])
        fitted = pixels[0].transpose(1, 2, 0)
        apart = float(np.abs(fitted - preprocessing.pixels(image)).max())
        if apart > PIXEL_TOLERANCE:
            raise _pixel_error(path, preprocessing, image_path, image.size, apart)
        pixel_difference = max(pixel_difference, apart)
        wanted = preprocessing.normalize(fitted.astype(np.uint8))
        # Rounding grows with the values: a small std makes them large.
        errors = np.abs(inputs[0] - wanted) / np.maximum(1, np.abs(wanted))
        input_difference = max(input_difference, float(errors.max()))
    parity = dataclasses.replace(
        compare({1: np.stack(found)}, np.stack(expected), examples.targets, max_pixel_difference=pixel_difference),
        reference=reference,
    )
    if not parity.passed or input_difference > INPUT_TOLERANCE:
        raise CheckFailedError(
            f"{path.name}: differs from Python and {reference}, though the pixels are within {PIXEL_TOLERANCE} of 255: "
            f"the network's input up to {input_difference:.1g} apart for the same pixels, probabilities up to "
            f"{parity.max_probability_difference:.2g} apart for the same input, on {parity.num_images} images",
            f"inputs within {INPUT_TOLERANCE:g} and probabilities within {TOLERANCE:g}",
            OPSET_REMEDY,
        )
    return parity


def _pixel_error(
    path: Path, preprocessing: Preprocessing, image_path: str, size: tuple[int, int], apart: float
) -> CheckFailedError:
    """Return what to say of a pipeline that computes other pixels than Python does."""
    width, height = size
    return CheckFailedError(
        f"{path.name}: its preprocessing differs from Python's by {apart:g} of 255 on {image_path} "
        f"({width} x {height} pixels; {preprocessing.policy}, {preprocessing.kernel}; {_versions(preprocessing)})",
        f"pixels within {PIXEL_TOLERANCE} of 255",
        "run model.onnx on pixels from Python, as predict does; write pipeline.onnx unchecked: "
        f"{command('export')} run=… verify=false; and report this line",
    )


def _versions(preprocessing: Preprocessing) -> str:
    """Name the versions of what computes pixels."""
    import onnxruntime
    import PIL

    resizer = f"Pillow {PIL.__version__}"
    if preprocessing.backend == "opencv":
        resizer = f"OpenCV {import_opencv().__version__}"
    return f"{resizer}, ONNX Runtime {onnxruntime.__version__}"


def compare(
    found: dict[int, NDArray[np.float32]],
    expected: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    max_pixel_difference: float | None = None,
) -> Parity:
    """Compare probabilities [N, K], found at each batch size, with the expected ones."""
    top_classes = expected.argmax(axis=1)
    return Parity(
        num_images=len(expected),
        batch_sizes=tuple(found),
        top1_agreement=min(float((shares.argmax(axis=1) == top_classes).mean()) for shares in found.values()),
        max_probability_difference=max(float(np.abs(shares - expected).max()) for shares in found.values()),
        accuracy=min(float((shares.argmax(axis=1) == targets).mean()) for shares in found.values()),
        reference_accuracy=float((top_classes == targets).mean()),
        max_pixel_difference=max_pixel_difference,
    )


def _changed(found: NDArray[np.float32], expected: NDArray[np.float32], *, margin: float) -> int:
    """Count the predictions that differ though the expected one led by more than the margin."""
    second, first = np.sort(expected, axis=1)[:, -2:].T
    return int(((found.argmax(axis=1) != expected.argmax(axis=1)) & (first - second > margin)).sum())
