"""Settings of prediction: when one is rejected, as unsure or unlike the training images, and sets of labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from classifier_training.core.errors import UserError, enumerate_words, shown
from classifier_training.core.register import register
from classifier_training.core.settings import Alias
from classifier_training.evaluation.guarantees import DELTA
from classifier_training.evaluation.label_sets import needed_images
from classifier_training.evaluation.reject import class_thresholds, guaranteed_thresholds
from classifier_training.export.session import Accelerator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from classifier_training.inference.model import LoadedModel

log = logging.getLogger(__name__)


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
        precision: share of the accepted predictions of each class that is correct at least, on images like the
            validation ones; classes with too few validation predictions have one threshold together.
        delta: chance that the precision is missed, for each threshold.
        guarantee: fixed_sequence tests the thresholds on validation predictions (Learn then Test), so that the
            precision holds with a confidence of 1 - delta; none takes the lowest threshold that gave the precision on
            those, which new images miss more often than not.
        coverage: for each class, the threshold that this share of its validation predictions reaches.
        foreign: also reject images unlike the training data; about 5 % of the images that are alike are rejected, too.
    """

    precision: Annotated[float, Field(gt=0, le=1)] | None = None
    delta: Annotated[float, Field(gt=0, lt=0.5)] = DELTA
    guarantee: Literal["fixed_sequence", "none"] = "fixed_sequence"
    coverage: Annotated[float, Field(gt=0, le=1)] | None = None
    foreign: bool = False


@register(group="predict_label_set", name="default")
@dataclass(frozen=True, kw_only=True)
class LabelSetSettings:
    """Sets of labels that hold the true one with a stated chance.

    Args:
        coverage: chance that the set of an image holds its true label, on images like the validation ones; without it
            there are no sets.
        by_class: keep the coverage among the images of each class, too; classes with too few validation images are in
            every set.
    """

    coverage: Annotated[float, Field(gt=0, lt=1)] | None = None
    by_class: bool = False


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
    _refuse_idle(settings)
    thresholds = None
    words = f"at or above the threshold {threshold:g}"
    if chosen:
        if model.calibration is None:
            raise _lacks(model, next(iter(chosen)), "the validation predictions that thresholds come from")
        words = "accepted by " + ", ".join(f"{name}={value:g}" for name, value in chosen.items())
        if settings.precision is not None and settings.guarantee != "none":
            thresholds = _guaranteed(model, settings.precision, settings.delta)
            words += f" (holds with {1 - settings.delta:.0%} confidence on images like the validation ones)"
        else:
            thresholds = class_thresholds(
                model.calibration.curves, precision=settings.precision, coverage=settings.coverage
            )
            words += "" if settings.precision is None else " (on validation images; for new ones nothing is guaranteed)"
    if settings.foreign and not model.gives_novelty:
        raise _lacks(model, "reject.foreign", "a score for images unlike the training data, and its threshold")
    return RejectRule(threshold, thresholds, model.novelty_threshold if settings.foreign else None, words)


def set_thresholds(model: LoadedModel, settings: LabelSetSettings) -> NDArray[np.float64] | None:
    """Return the probability from which on each class is in a label set [K]; None where no sets are asked for.

    Raises:
        UserError: for a bundle without what the thresholds come from, or too few validation images.
    """
    if settings.coverage is None:
        if settings.by_class:
            raise UserError(
                "label_set.by_class=true without label_set.coverage", "a coverage to keep", "label_set.coverage=0.9"
            )
        return None
    wish, names = f"label_set.coverage={settings.coverage:g}", model.class_names
    if model.calibration is None or model.calibration.scores is None:
        raise _lacks(model, "label_set.coverage", "the validation probabilities that label sets come from")
    scores, needed = model.calibration.scores, needed_images(settings.coverage)
    kind = "groups of validation images" if scores.groups is not None else "validation images"
    if not settings.by_class:
        if not scores.allows(settings.coverage):
            raise UserError(f"{wish}: there are too few {kind}", f"{needed:,} at least", "a lower coverage")
        return np.full(len(names), scores.threshold(settings.coverage))
    found = scores.class_thresholds(settings.coverage, len(names))
    if not found.any():
        raise UserError(
            f"{wish}: no class has enough {kind}",
            f"{needed:,} of a class at least",
            "a lower coverage, or leave label_set.by_class out",
        )
    if not found.all():
        always = [shown(name) for name, value in zip(names, found, strict=True) if not value]
        log.warning(
            "%s: of %s there are under %d %s, so that they are in every set",
            wish,
            enumerate_words(always),
            needed,
            kind,
        )
    return found


def _refuse_idle(settings: RejectSettings) -> None:
    """Refuse settings of the precision's guarantee that have no effect."""
    usual = RejectSettings()
    changed = [f"reject.{name}={value}" for name in ("delta", "guarantee")
               if (value := getattr(settings, name)) != getattr(usual, name)]  # fmt: skip
    if settings.precision is None and changed:
        raise UserError(f"{changed[0]} without reject.precision", "a precision to guarantee", "reject.precision=0.95")
    if settings.guarantee == "none" and settings.delta != usual.delta:
        raise UserError(f"{changed[0]} has no effect with reject.guarantee=none", "one of the two", "leave one out")


def _guaranteed(model: LoadedModel, precision: float, delta: float) -> Mapping[str, float]:
    """Return thresholds by class at which a precision holds, and say which classes are never accepted.

    Raises:
        UserError: when there are too few validation images to show it for any class.
    """
    assert model.calibration is not None
    found = guaranteed_thresholds(model.calibration.curves, precision=precision, delta=delta)
    wish = f"reject.precision={precision:g}"
    if not found.possible:
        grouped = any(curve.groups is not None for curve in model.calibration.curves.values())
        what = "independent groups of validation images" if grouped else "validation predictions"
        raise UserError(
            f"{wish}: {found.most:,} {what} cannot show it with a confidence of {1 - delta:.0%}",
            "no number of them can show a precision of 1; a lower one"
            if precision == 1
            else f"{found.needed:,} at least, if all are correct, and more if some are wrong",
            "more validation images, a lower precision, a larger reject.delta, or reject.guarantee=none, which "
            "guarantees nothing",
        )
    if found.never:
        log.warning(
            "%s: no threshold can be shown for %s, so all their predictions are rejected; more validation images, or a "
            "lower precision, can change that", wish, enumerate_words(map(shown, found.never)),
        )  # fmt: skip
    if found.shared:
        log.info(
            "%s: of classes with under %d validation predictions it holds together: %s",
            wish, found.needed, enumerate_words(map(shown, found.shared)),
        )  # fmt: skip
    return found.by_class


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
    if model.is_ensemble:
        return UserError(
            f"{setting}: {model.path} is an ensemble, which lacks {what}",
            "one run; for thresholds and label sets also a cross-validation (train data.num_folds=5), which takes them "
            "from its out-of-fold predictions",
            "run=FOLDER of one of its models, or leave the setting out",
        )
    return UserError(
        f"{setting}: {model.path} has no calibration, so it lacks {what}",
        "the folder of a run that was calibrated, which takes 30 validation images or more",
        "run=/the/run/folder; classifier-training export run=… calibrates an older run",
    )
