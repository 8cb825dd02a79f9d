"""Callbacks that Lightning calls: keeping weights, early stopping, averaged weights and the progress display."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.metrics import goal_of
from classifier_training.core.register import register
from classifier_training.core.settings import Alias, Resume
from classifier_training.core.types import VAL
from classifier_training.evaluation.metrics import check_monitor

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from classifier_training.callbacks.observer import RunContext
    from classifier_training.training.checkpoints import RunCheckpoints


@register(group="callbacks", name="checkpoint")
def checkpoint(
    run: RunContext,
    *,
    every_seconds: Annotated[float, Field(ge=0), Resume.EXACT] = 30.0,
    every_minutes: Annotated[float, Field(ge=0), Resume.EXACT] = 10.0,
    keep_last: Annotated[bool, Resume.EXACT] = True,
) -> RunCheckpoints:
    """Save best.ckpt, by the run's `monitor`, and last.ckpt and step.ckpt, to resume from.

    The first checkpoint is written after the first step.

    Args:
        every_seconds: shortest time between two writes of last.ckpt at the end of an epoch; 0 writes after every epoch.
            The last epoch is always written.
        every_minutes: longest time without a write, after which step.ckpt is written within an epoch; 0 writes after
            every step.
        keep_last: whether a finished run keeps last.ckpt, to train it longer. It is four times as large as the weights.
    """
    from classifier_training.training.checkpoints import RunCheckpoints

    return RunCheckpoints(
        run.run_dir,
        monitor=run.monitor,
        mode=run.monitor_mode,
        every_seconds=every_seconds,
        every_minutes=every_minutes,
        keep_last=keep_last,
        metadata={
            "architecture": run.model.architecture,
            "class_names": list(run.class_names),
            "preprocessing": run.preprocessing.to_dict(),
        },
    )


def without_checkpoint() -> UserError:
    """Return the error for a run of which nothing saves the weights."""
    return UserError(
        "callbacks.checkpoint is switched off",
        "a callback that saves the best weights, which are scored and exported",
        "callbacks=[checkpoint] for no other; callbacks.checkpoint.every_seconds=600 writes less often",
    )


@register(group="callbacks", name="early_stopping")
def early_stopping(
    run: RunContext,
    *,
    monitor: str | None = None,
    patience: Annotated[int, Field(ge=1), Alias("patience")] = 10,
    min_delta: Annotated[float, Field(ge=0)] = 0.001,
) -> Callback:
    """Stop training when a metric has not improved for some epochs; the best weights are used either way.

    Args:
        monitor: metric to watch; the run's own `monitor` when left out.
        patience: epochs without improvement before training stops.
        min_delta: smallest change that counts as improvement.

    Raises:
        UserError: when there is no such metric.
    """
    from pytorch_lightning.callbacks import EarlyStopping

    watched = monitor or run.monitor
    targets = run.tables[VAL].targets
    check_monitor(watched, run.class_names, targets, setting="callbacks.early_stopping.monitor")
    return EarlyStopping(watched, mode=goal_of(watched), patience=patience, min_delta=min_delta, check_finite=False)


@register(group="callbacks", name="ema")
def ema(run: RunContext, *, decay: Annotated[float, Field(gt=0, lt=1)] = 0.999) -> Callback:  # noqa: ARG001
    """Average the weights over the last steps (EMA); the average is validated, saved as best and exported.

    Args:
        decay: weight of the previous average in each step, after a warm-up; 0.999 averages about a thousand steps.
    """
    from classifier_training.training.checkpoints import ExponentialMovingAverage

    return ExponentialMovingAverage(decay)


@register(group="callbacks", name="progress", shows_only=True)
def progress(run: RunContext) -> Callback:
    """Log a line per epoch and, on a terminal, show a bar with images per second and the remaining time."""
    from classifier_training.callbacks.assemble import EpochProgress

    return EpochProgress(run.monitor)
