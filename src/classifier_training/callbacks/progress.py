"""What the screen shows during a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier_training.core.register import register

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from classifier_training.callbacks.observer import RunContext


@register(group="callbacks", name="progress", shows_only=True)
def progress(run: RunContext) -> Callback:
    """A line an epoch, and on a terminal a bar with images a second and the time left."""
    from classifier_training.callbacks.rich_progress import EpochProgress

    return EpochProgress(run.monitor)
