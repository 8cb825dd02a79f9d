"""Keeping weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.settings import Resume

if TYPE_CHECKING:
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
    """Keep best.ckpt, by the run's `monitor`, and last.ckpt and step.ckpt, to resume from.

    The first is written after the first step.

    Args:
        every_seconds: least time between two writes of last.ckpt, at the end of an epoch; 0 writes after every epoch.
            The last epoch is always written.
        every_minutes: most time without a write; step.ckpt is then written between two steps of an epoch, 0 after each.
        keep_last: whether a finished run keeps last.ckpt, with which it can be trained longer. It takes four times as
            much room as the weights.
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
