"""Settings of prediction, and the rule by which a prediction is rejected: too unsure, or unlike the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
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

    batch_size: Annotated[int, Field(ge=1)] = 32


@register(group="predict_reject", name="default")
@dataclass(frozen=True, kw_only=True)
class RejectSettings:
    """Which answers are marked as rejected.

    Args:
        precision: take from each class's validation answers the lowest threshold above which this share is right.
        coverage: take from each class's validation answers the threshold that this share of them reaches.
        foreign: also reject images unlike the training data; about one in twenty of the right kind is rejected too.
    """

    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    coverage: Annotated[float, Field(gt=0, le=1)] | None = None
    foreign: bool = False


@register(group="predict_trainer", name="default")
@dataclass(frozen=True, kw_only=True)
class PredictTrainer:
    """Where the model runs.

    Args:
        accelerator: auto takes CUDA where ONNX Runtime has it, else the CPU, and says which.
    """

    accelerator: Accelerator = "auto"


Reason = Literal["low_confidence", "unlike_training"]

UNKNOWN = "unknown"
"""The label of a rejected image where the user wants no other."""

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class RejectRule:
    """What makes an answer a rejected one.

    Args:
        threshold: confidence that an answer needs.
        class_thresholds: the same by class, in place of it; a class that is not there needs the other.
        novelty_threshold: score above which an image is unlike the training data; None lets all images pass.
        words: the rule on the confidence, for the screen.
    """

    threshold: float = DEFAULT_THRESHOLD
    class_thresholds: Mapping[str, float] | None = None
    novelty_threshold: float | None = None
    words: str = ""

    def reason(self, label: str, confidence: float, novelty: float | None) -> Reason | None:
        """Say why an answer is rejected; None for an accepted one."""
        if self.novelty_threshold is not None and novelty is not None and novelty > self.novelty_threshold:
            return "unlike_training"
        needed = (self.class_thresholds or {}).get(label, self.threshold)
        return "low_confidence" if confidence < needed else None


def make_rule(model: LoadedModel, threshold: float, settings: RejectSettings) -> RejectRule:
    """Turn a user's wishes into thresholds, as the bundle's validation answers have them.

    Raises:
        UserError: for wishes that exclude each other, or that the bundle cannot meet.
    """
    given = {"reject.precision": settings.precision, "reject.coverage": settings.coverage}
    wished = {name: value for name, value in given.items() if value is not None}
    if len(wished) + (threshold != DEFAULT_THRESHOLD) > 1:
        names = [f"{name}={value:g}" for name, value in wished.items()]
        names += [f"threshold={threshold:g}"] if threshold != DEFAULT_THRESHOLD else []
        raise UserError(
            f"{' and '.join(names)}: each says how sure an answer must be", "one of them", "leave the other out"
        )
    thresholds = None
    words = f"at or above the threshold {threshold:g}"
    if wished:
        if model.calibration is None:
            raise _lacks(model, next(iter(wished)), "the answers on the validation split that thresholds come from")
        thresholds = class_thresholds(
            model.calibration.curves, precision=settings.precision, coverage=settings.coverage
        )
        words = "accepted by " + ", ".join(f"{name}={value:g}" for name, value in wished.items())
    if settings.foreign and not model.gives_novelty:
        raise _lacks(model, "reject.foreign", "a score for images unlike the training data, and its threshold")
    return RejectRule(threshold, thresholds, model.novelty_threshold if settings.foreign else None, words)


def refuse_unknown(class_names: tuple[str, ...]) -> None:
    """Make sure that `unknown` as an answer means nothing but a rejected image.

    Raises:
        UserError: when a class has that name.
    """
    if UNKNOWN in class_names:
        raise UserError(
            f"unknown=true: the model has a class named {UNKNOWN!r}",
            "rejected images that can be told from that class",
            "leave unknown= out, and read the field rejected",
        )


def _lacks(model: LoadedModel, setting: str, what: str) -> UserError:
    return UserError(
        f"{setting}: {model.path} has not {what}",
        "the folder of a run that was calibrated, which takes 30 validation images or more",
        "run=/the/run/folder; classifier-training export run=… calibrates an older run",
    )
