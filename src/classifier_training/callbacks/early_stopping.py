"""Stopping a run that no longer gets better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.metrics import goal_of
from classifier_training.core.register import register
from classifier_training.core.types import VAL
from classifier_training.evaluation.metrics import check_monitor

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from classifier_training.callbacks.observer import RunContext


@register(group="callbacks", name="early_stopping")
def early_stopping(
    run: RunContext,
    *,
    monitor: str | None = None,
    patience: Annotated[int, Field(ge=1)] = 10,
    min_delta: Annotated[float, Field(ge=0)] = 0.001,
) -> Callback:
    """End training when a metric has not improved for some epochs; the best weights come back either way.

    Args:
        monitor: metric to watch; the run's own `monitor` when left out.
        patience: epochs without improvement that are waited for.
        min_delta: least change that counts as improvement.

    Raises:
        UserError: when there is no such metric.
    """
    from pytorch_lightning.callbacks import EarlyStopping

    watched = monitor or run.monitor
    targets = run.tables[VAL].targets
    check_monitor(watched, run.class_names, targets, setting="callbacks.early_stopping.monitor")
    return EarlyStopping(watched, mode=goal_of(watched), patience=patience, min_delta=min_delta, check_finite=False)
