"""Averaged weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.register import register

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from classifier_training.callbacks.observer import RunContext


@register(group="callbacks", name="ema")
def ema(run: RunContext, *, decay: Annotated[float, Field(gt=0, lt=1)] = 0.999) -> Callback:  # noqa: ARG001
    """Average the weights over the last steps; the average is validated, kept as best and exported.

    Args:
        decay: share of the average that a step keeps, once warm: 0.999 remembers about a thousand steps.
    """
    from classifier_training.training.ema import ExponentialMovingAverage

    return ExponentialMovingAverage(decay)
