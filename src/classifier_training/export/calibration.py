"""What a bundle knows of its own doubts: temperature, thresholds, and a score for images unlike the training data.

It is fitted by `calibrate` and read wherever the bundle is used. Needs neither torch nor onnx.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from classifier_training.core.types import VAL
from classifier_training.evaluation.calibration import METHOD, TemperatureChoice
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
        choice: the temperature, and how it was judged.
        curves: the validation predictions by the class that they name, with the confidence at that temperature.
        novelty: the score for images unlike the training data.
        method: how the temperature was found.
    """

    choice: TemperatureChoice
    curves: Mapping[str, AcceptanceCurve]
    novelty: Novelty
    method: str = METHOD

    @property
    def temperature(self) -> float:
        """What the logits are divided by; 1 where that helps nothing."""
        return self.choice.temperature

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        return {
            "method": self.method,
            "split": VAL,
            **asdict(self.choice),
            "novelty": asdict(self.novelty),
            "classes": {name: curve.to_dict() for name, curve in self.curves.items()},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave.

        Raises:
            ValueError, KeyError, TypeError: when it is something else.
        """
        # A bundle of before temperatures were judged says nothing of that.
        known = {"fitted_temperature": found["temperature"], "reason": "", **found}
        choice = TemperatureChoice(
            **{field.name: known[field.name] for field in fields(TemperatureChoice) if field.name in known}
        )
        if not choice.temperature > 0:
            raise ValueError(f"a temperature of {choice.temperature}")
        return cls(
            choice=choice,
            curves={name: AcceptanceCurve.from_dict(curve) for name, curve in found["classes"].items()},
            novelty=Novelty(**found["novelty"]),
            method=found["method"],
        )

    def metadata(self) -> dict[str, str]:
        """Return what a lone ONNX file says of it."""
        return {TEMPERATURE_KEY: repr(self.temperature), NOVELTY_KEY: repr(self.novelty.threshold)}

    def __str__(self) -> str:
        choice = self.choice
        if choice.reason:
            return f"not calibrated, temperature 1: {choice.reason}"
        words = f"calibrated on {choice.num_images:,} validation images, temperature {choice.temperature:.3f}"
        if choice.log_loss_after is None:
            return words
        return (
            f"{words}; on held-out folds log loss {choice.log_loss_before:.4f} before and {choice.log_loss_after:.4f} "
            f"after, calibration error {choice.ece_before:.4f} before and {choice.ece_after:.4f} after"
        )
