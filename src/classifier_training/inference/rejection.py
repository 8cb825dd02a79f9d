"""Settings of prediction, and the rule by which one is rejected: low confidence, or unlike the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.settings import Alias
from classifier_training.evaluation.reject import class_thresholds
from classifier_training.export.session import Accelerator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.inference.model import LoadedModel


@register(group="predict_data", name="default")
@dataclass(frozen=True, kw_only=True)
class PredictData:
    """How images go through the model.

    Args:
        batch_size: images in a batch.
    """

    batch_size: Annotated[int, Field(ge=1), Alias("batch", "bs")] = 32


@register(group="predict_reject", name="default")
@dataclass(frozen=True, kw_only=True)
class RejectSettings:
    """Which predictions are marked as rejected.

    Args:
        precision: for each class, the lowest threshold above which this share of its validation predictions is correct.
        coverage: for each class, the threshold that this share of its validation predictions reaches.
        foreign: also reject images unlike the training data; about 5 % of the images that are alike are rejected, too.
    """

    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    coverage: Annotated[float, Field(gt=0, le=1)] | None = None
    foreign: bool = False


@register(group="predict_trainer", name="default")
@dataclass(frozen=True, kw_only=True)
class PredictTrainer:
    """Where the model runs.

    Args:
        accelerator: auto takes CUDA if ONNX Runtime has it, else the CPU, and logs which.
    """

    accelerator: Annotated[Accelerator, Alias("device")] = "auto"


Reason = Literal["low_confidence", "unlike_training"]

UNKNOWN = "unknown"
"""The label of a rejected image with `unknown=true`."""

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class RejectRule:
    """When a prediction is rejected.

    Args:
        threshold: least confidence of an accepted prediction.
        class_thresholds: the same by class; a class without one needs `threshold`.
        novelty_threshold: score above which an image is unlike the training data; None accepts all images.
        words: the rule on the confidence, for the screen.
    """

    threshold: float = DEFAULT_THRESHOLD
    class_thresholds: Mapping[str, float] | None = None
    novelty_threshold: float | None = None
    words: str = ""

    def reason(self, label: str, confidence: float, novelty: float | None) -> Reason | None:
        """Return why a prediction is rejected; None for an accepted one."""
        if self.novelty_threshold is not None and novelty is not None and novelty > self.novelty_threshold:
            return "unlike_training"
        needed = (self.class_thresholds or {}).get(label, self.threshold)
        return "low_confidence" if confidence < needed else None


def make_rule(model: LoadedModel, threshold: float, settings: RejectSettings) -> RejectRule:
    """Return the rule that settings stand for; thresholds by class come from the bundle's calibration.

    Raises:
        UserError: for settings that exclude each other, or that need a calibrated bundle.
    """
    given = {"reject.precision": settings.precision, "reject.coverage": settings.coverage}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) + (threshold != DEFAULT_THRESHOLD) > 1:
        names = [f"{name}={value:g}" for name, value in chosen.items()]
        names += [f"threshold={threshold:g}"] if threshold != DEFAULT_THRESHOLD else []
        raise UserError(
            f"{' and '.join(names)}: each sets the confidence that a prediction needs",
            "one of them",
            "leave the other out",
        )
    thresholds = None
    words = f"at or above the threshold {threshold:g}"
    if chosen:
        if model.calibration is None:
            raise _lacks(model, next(iter(chosen)), "the validation predictions that thresholds come from")
        thresholds = class_thresholds(
            model.calibration.curves, precision=settings.precision, coverage=settings.coverage
        )
        words = "accepted by " + ", ".join(f"{name}={value:g}" for name, value in chosen.items())
    if settings.foreign and not model.gives_novelty:
        raise _lacks(model, "reject.foreign", "a score for images unlike the training data, and its threshold")
    return RejectRule(threshold, thresholds, model.novelty_threshold if settings.foreign else None, words)


def refuse_unknown(class_names: tuple[str, ...]) -> None:
    """Make sure that no class has the name `unknown`, which marks a rejected image.

    Raises:
        UserError: when a class has that name.
    """
    if UNKNOWN in class_names:
        raise UserError(
            f"unknown=true: the model has a class named {UNKNOWN!r}",
            "a label for rejected images that is no class",
            "leave unknown= out, and read the field rejected",
        )


def _lacks(model: LoadedModel, setting: str, what: str) -> UserError:
    return UserError(
        f"{setting}: {model.path} has no calibration, so it lacks {what}",
        "the folder of a run that was calibrated, which takes 30 validation images or more",
        "run=/the/run/folder; classifier-training export run=… calibrates an older run",
    )
