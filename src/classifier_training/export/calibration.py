"""What a bundle knows of its own doubts: temperature, thresholds, and a score for images unlike the training data.

It is fitted by `calibrate` and read wherever the bundle is used. Needs neither torch nor onnx.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.core.types import VAL
from classifier_training.evaluation.calibration import METHOD
from classifier_training.evaluation.reject import AcceptanceCurve

if TYPE_CHECKING:
    from collections.abc import Mapping

NOVELTY_NAME = "novelty"
"""The output of an ONNX file that scores how unlike the training data an image is."""

TEMPERATURE_KEY, BAKED_KEY, NOVELTY_KEY = "temperature", "baked_temperature", "novelty_threshold"
"""In the metadata of an ONNX file: what its logits or probabilities are still to be divided by in the logarithm, what
they have been divided by already, and the score above which an image is unlike the training data."""


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """The score for images unlike the training data.

    Args:
        threshold: a higher score is an alarm.
        false_alarm_rate: share of the validation images with an alarm.
        method: feature_subspace, or energy where the network has no linear last layer.
    """

    threshold: float
    false_alarm_rate: float
    method: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted on the validation split.

    Args:
        temperature: that logits are divided by.
        ece_before: expected calibration error with a temperature of 1.
        ece_after: the same with this one.
        num_images: validation images.
        curves: their answers by the class that they name, with the calibrated confidence.
        novelty: the score for images unlike the training data.
        method: how the temperature was found.
    """

    temperature: float
    ece_before: float
    ece_after: float
    num_images: int
    curves: Mapping[str, AcceptanceCurve]
    novelty: Novelty
    method: str = METHOD

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        return {
            "method": self.method,
            "temperature": self.temperature,
            "split": VAL,
            "num_images": self.num_images,
            "ece_before": self.ece_before,
            "ece_after": self.ece_after,
            "novelty": asdict(self.novelty),
            "classes": {name: curve.to_dict() for name, curve in self.curves.items()},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave.

        Raises:
            ValueError, KeyError, TypeError: when it is something else.
        """
        temperature = float(found["temperature"])
        if not temperature > 0:
            raise ValueError(f"a temperature of {temperature}")
        return cls(
            temperature=temperature,
            ece_before=float(found["ece_before"]),
            ece_after=float(found["ece_after"]),
            num_images=int(found["num_images"]),
            curves={name: AcceptanceCurve.from_dict(curve) for name, curve in found["classes"].items()},
            novelty=Novelty(**found["novelty"]),
            method=found["method"],
        )

    def metadata(self) -> dict[str, str]:
        """Return what a lone ONNX file says of it."""
        return {TEMPERATURE_KEY: repr(self.temperature), NOVELTY_KEY: repr(self.novelty.threshold)}

    def __str__(self) -> str:
        return (
            f"calibrated on {self.num_images:,} validation images: temperature {self.temperature:.3f}, calibration "
            f"error {self.ece_before:.4f} before and {self.ece_after:.4f} after"
        )
