"""The accuracy gate: a quantized file ships only when it predicts almost as well as the one it came from.

Needs no torch.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.types import softmax
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies
from classifier_training.export.quantize import Quantizer, rank_operators, write_half
from classifier_training.export.session import (
    Latency,
    measure_side_by_side,
    onnx_runner,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.export.examples import Examples

log = logging.getLogger(__name__)

NUM_RANKING_IMAGES = 16

Batches = Callable[[], Iterator["Examples"]]
"""Starts a walk over a split, batch by batch."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What quantization costs and brings, measured on the file that was written.

    Args:
        passed: whether the drop is within the limit.
        max_drop_points: the limit.
        num_images: of the validation split.
        accuracy: share of correct predictions.
        float_accuracy: the same of the file it came from.
        accuracy_drop_points: how many of a hundred correct predictions were lost.
        balanced_accuracy: mean over the classes of the share of correct predictions.
        float_balanced_accuracy: the same of the file it came from.
        top1_agreement: share of images with the same most probable class.
        max_probability_difference: over images and classes.
        size_bytes: of the file.
        size_ratio: to the file it came from.
        latency: for one image.
        float_latency: the same of the file it came from, measured in turn.
        operators_in_float: names of the operators left alone because quantizing them cost accuracy.
    """

    passed: bool
    max_drop_points: float
    num_images: int
    accuracy: float
    float_accuracy: float
    accuracy_drop_points: float
    balanced_accuracy: float
    float_balanced_accuracy: float
    top1_agreement: float
    max_probability_difference: float
    size_bytes: int
    size_ratio: float
    latency: Latency
    float_latency: Latency
    operators_in_float: tuple[str, ...]

    @property
    def speedup(self) -> float:
        """How many times faster it is."""
        return self.float_latency.median_ms / self.latency.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        return {**asdict(self), "speedup": self.speedup}

    def __str__(self) -> str:
        kept = len(self.operators_in_float)
        faster = f"{self.speedup:.2f}x as fast" if self.speedup > 1 else f"NOT faster here ({self.speedup:.2f}x)"
        return (
            f"{self.size_bytes / 2**20:.1f} MiB ({self.size_ratio:.2f}x), {self.latency.median_ms:.1f} ms against "
            f"{self.float_latency.median_ms:.1f} ms an image: {faster}; top-1 accuracy {self.accuracy:.4f} against "
            f"{self.float_accuracy:.4f} ({0 - self.accuracy_drop_points:+.2f} points), agreement "
            f"{self.top1_agreement:.2%} on {self.num_images:,} validation images"
            + (f"; {kept} operators kept in float" if kept else "")
        )


def write_gated(
    source: Path,
    target: Path,
    scheme: Literal["fp16", "int8", "uint8"],
    *,
    calibration: Batches,
    validation: Batches,
    class_names: Sequence[str],
    max_drop: float,
    force: bool,
) -> Gate:
    """Write a quantized copy whose accuracy on validation images is within the limit.

    Operators that hurt most are kept in float, twice as many in each round, until the limit holds.

    Args:
        source: ONNX file in float32.
        target: where to.
        scheme: fp16, int8 or uint8.
        calibration: training images, to measure the activations on.
        validation: the validation split.
        class_names: [K].
        max_drop: largest loss of top-1 accuracy, in points of a hundred.
        force: write the file even so.

    Raises:
        CheckFailedError: when the limit cannot be held; nothing is written then.
    """
    reference = _Predictions.of(source, validation)
    with tempfile.TemporaryDirectory() as scratch:
        candidate, in_float = Path(scratch) / "candidate.onnx", tuple[str, ...]()
        if scheme == "fp16":
            write_half(source, candidate)
            predictions = _Predictions.of(candidate, validation)
        else:
            quantizer = Quantizer(
                source, scheme, calibration=lambda: (batch.inputs for batch in calibration()), folder=Path(scratch)
            )
            quantizer.write(candidate)
            predictions = _Predictions.of(candidate, validation)
            if reference.drop_to(predictions) > max_drop:
                for in_float in _growing(quantizer, Path(scratch), next(calibration())):
                    log.info(
                        "%s costs %.2f points; trying again with %d operators in float",
                        scheme, reference.drop_to(predictions), len(in_float),
                    )  # fmt: skip
                    quantizer.write(candidate, in_float=in_float)
                    predictions = _Predictions.of(candidate, validation)
                    if reference.drop_to(predictions) <= max_drop:
                        break
        drop = reference.drop_to(predictions)
        if drop > max_drop and not force:
            raise CheckFailedError(
                f"{target.name}: {scheme} loses {drop:.2f} points of top-1 accuracy on {len(predictions.targets):,} "
                f"validation images, with {len(in_float)} operators kept in float",
                f"at most {max_drop:g} points",
                "quantization=fp16, a higher max_drop, or force=true to write the file even so",
            )
        with atomic_path(target) as temporary:
            shutil.copyfile(candidate, temporary)
    probe = next(validation()).inputs[:1]
    latency, float_latency = measure_side_by_side([partial(onnx_runner(path), probe) for path in (target, source)])
    drop = reference.drop_to(predictions)
    return Gate(
        passed=drop <= max_drop,
        max_drop_points=max_drop,
        num_images=len(predictions.targets),
        accuracy=predictions.accuracy,
        float_accuracy=reference.accuracy,
        accuracy_drop_points=drop,
        balanced_accuracy=predictions.balanced_accuracy(class_names),
        float_balanced_accuracy=reference.balanced_accuracy(class_names),
        top1_agreement=float((predictions.logits.argmax(axis=1) == reference.logits.argmax(axis=1)).mean()),
        max_probability_difference=float(np.abs(softmax(predictions.logits) - softmax(reference.logits)).max()),
        size_bytes=target.stat().st_size,
        size_ratio=target.stat().st_size / source.stat().st_size,
        latency=latency,
        float_latency=float_latency,
        operators_in_float=in_float,
    )


@dataclass(frozen=True)
class _Predictions:
    """One file's logits [N, K] on the validation split, and the right classes [N]."""

    logits: NDArray[np.float32]
    targets: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path, batches: Batches) -> _Predictions:
        runner = onnx_runner(path)
        parts = [(runner(batch.inputs), batch.targets) for batch in batches()]
        logits, targets = zip(*parts, strict=True)
        return cls(np.concatenate(logits), np.concatenate(targets))

    @property
    def accuracy(self) -> float:
        return float((self.logits.argmax(axis=1) == self.targets).mean())

    def balanced_accuracy(self, class_names: Sequence[str]) -> float:
        losses = cross_entropies(self.logits, self.targets)
        return float(classification_metrics(self.logits, self.targets, losses, class_names)["balanced_accuracy"])

    def drop_to(self, other: _Predictions) -> float:
        return 100 * (self.accuracy - other.accuracy)


def _growing(quantizer: Quantizer, scratch: Path, examples: Examples) -> Iterator[tuple[str, ...]]:
    """Yield ever more operators to keep in float, the most harmful first, as long as some are left."""
    switched = scratch / "switched.onnx"
    quantizer.write(switched, keep_activations=True)
    ranking = rank_operators(switched, quantizer.nodes, examples.inputs[:NUM_RANKING_IMAGES])
    number = 1
    while number < len(ranking):
        yield tuple(dict.fromkeys(name for names in ranking[:number] for name in names))
        number *= 2
