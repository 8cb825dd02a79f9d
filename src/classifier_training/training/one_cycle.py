"""The one-cycle policy: the learning rate rises and falls once, and momentum does the opposite.

Smith & Topin 2018, "Super-convergence" (arXiv:1708.07120); Smith 2018 (arXiv:1803.09820). Both move along cosines, as
in fastai and in torch's OneCycleLR, whose values these are. That one keeps its length in the checkpoint and ends the
run with an error when it is resumed for more epochs; this one follows from the step and the length alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer


def one_cycle_value(
    step: float, total_steps: int, *, start: float, middle: float, end: float, warmup_fraction: float
) -> float:
    """Value at a step counted from 0: a half cosine from start to middle, and another to the end."""
    turn = warmup_fraction * total_steps - 1
    if step <= turn:
        return _between(start, middle, step / turn if turn > 0 else 1.0)
    return _between(middle, end, min(1.0, (step - turn) / max(1.0, total_steps - 1 - turn)))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class OneCycle(LambdaLR):
    """Sets learning rate and momentum (SGD's, or the first beta of Adam) step by step.

    Args:
        optimizer: its learning rates are the highest ones.
        rate: step -> factor of the learning rate.
        momentum: step -> momentum; not used where an optimizer has none.
    """

    def __init__(self, optimizer: Optimizer, rate: Callable[[int], float], momentum: Callable[[int], float]) -> None:
        self._momentum = momentum
        super().__init__(optimizer, rate)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Set the momentum on the way; returns the learning rate of each group."""
        value = self._momentum(self.last_epoch)
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            elif group.get("momentum"):
                group["momentum"] = value
        return super().get_lr()  # type: ignore[return-value]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the functions, which the run makes anew."""
        return {key: value for key, value in super().state_dict().items() if key != "_momentum"}
