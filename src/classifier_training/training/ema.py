"""An exponential moving average of the weights: what is validated, kept as best and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pytorch_lightning.callbacks import WeightAveraging

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytorch_lightning as pl
    from torch import Tensor


def warmed_decay(decay: float, num_updates: int) -> float:
    """Decay of an update, growing from 0.18 to `decay`, so that a short run is not held at its start.

    As in TensorFlow's ExponentialMovingAverage: min(decay, (1 + n) / (10 + n)).
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's weight averaging with a decay that warms up.

    It averages from the first step on, on the device of the weights, batch-norm statistics included; the average is
    swapped in for validation and left in place when training ends, and checkpoints hold it as their `state_dict`.

    Args:
        decay: share of the average that a step keeps, once warm.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._update)
        self.decay = decay

    @torch.no_grad()
    def _update(self, averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            weight = 1 - warmed_decay(self.decay, int(num_averaged))
            torch._foreach_lerp_(list(averaged), list(current), weight)
        else:
            for average, value in zip(averaged, current, strict=True):
                average.copy_(value)

    def averaged_state(self) -> dict[str, Tensor]:
        """The averaged weights under the names of the module's own."""
        assert self._average_model is not None
        return self._average_model.module.state_dict()


def validated_state(trainer: pl.Trainer) -> dict[str, Tensor]:
    """Weights that the last validation scored: the average where there is one, else the module's own."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExponentialMovingAverage):
            return callback.averaged_state()
    return trainer.lightning_module.state_dict()
