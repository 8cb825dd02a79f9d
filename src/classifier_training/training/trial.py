"""Steps on a copy of the network, to measure something before training: time, memory, a range of learning rates."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error
from pytorch_lightning.utilities.seed import isolate_rng

from classifier_training.core.errors import UserError
from classifier_training.core.types import Batch
from classifier_training.training.device import autocast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from classifier_training.training.module import ClassifierModule


class Trial:
    """A copy of a module that can be stepped; see `trial_of`.

    Attributes:
        module: the copy, on the device.
        optimizer: its optimizer, made as the run's will be.
    """

    def __init__(
        self, module: ClassifierModule, device: torch.device, precision: str, gradient_clip_val: float | None
    ) -> None:
        self.module = copy.deepcopy(module).to(device).train()
        self.optimizer: torch.optim.Optimizer = self.module.configure_optimizers()["optimizer"]
        self._device = device
        self._precision = precision
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed")
        self._gradient_clip_val = gradient_clip_val
        self._num_steps = 0
        self.module.on_train_epoch_start()

    def step(self, batches: Sequence[Batch]) -> float:
        """Make one step of the optimizer with the mean gradient of some batches; returns their mean loss."""
        losses = [self._backward(batch, 1 / len(batches)) for batch in batches]
        self._scaler.unscale_(self.optimizer)
        self.module.configure_gradient_clipping(self.optimizer, self._gradient_clip_val)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._num_steps += 1
        return float(sum(losses))

    def synthetic(self, batch_size: int) -> Batch:
        """Make a batch of noise in the shape of the run's."""
        height, width = self.module.input_size
        images = torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8)
        targets = torch.arange(batch_size) % len(self.module.class_names)
        return self.moved(Batch(images, targets, torch.arange(batch_size)))

    def moved(self, batch: Batch) -> Batch:
        """Bring a batch to the device."""
        return Batch(*(None if part is None else part.to(self._device) for part in batch))  # type: ignore[arg-type]

    def _backward(self, batch: Batch, share: float) -> torch.Tensor:
        with autocast(self._device.type, self._precision):
            loss = self.module.training_step(batch, self._num_steps)
        if loss is None:
            return torch.zeros((), device=self._device)
        scaled: Any = self._scaler.scale(loss * share)
        scaled.backward()
        return loss.detach() * share


@contextmanager
def trial_of(
    module: ClassifierModule, accelerator: str, precision: str, gradient_clip_val: float | None = None
) -> Iterator[Trial]:
    """Give a copy of a module to step; module, generators and the device's memory are then as they were.

    Args:
        module: what to copy, not yet with Lightning.
        accelerator: cpu, cuda or mps.
        precision: as Lightning names it.
        gradient_clip_val: largest norm of the gradients; None for no bound.
    """
    with isolate_rng():
        try:
            yield Trial(module, torch.device(accelerator), precision, gradient_clip_val)
        finally:
            if accelerator == "cuda":
                garbage_collection_cuda()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is used up; MPS has no error of its own for it."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or is_oom_error(error)
        or (isinstance(error, RuntimeError) and "MPS backend out of memory" in str(error))
    )


LOWEST_LR, HIGHEST_LR, NUM_STEPS = 1e-7, 10.0, 100

SMOOTHING = 0.98
"""Memory of the running mean of losses, as fastai's."""

DIVERGED = 4.0
"""A smoothed loss this many times the lowest ends the sweep."""

SKIPPED_STEPS = 5
"""First steps whose running mean is of too few losses to be looked at."""


@dataclass(frozen=True)
class LrRange:
    """A sweep of the learning rate.

    Args:
        rates: of each step [S], rising exponentially.
        losses: smoothed [S].
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]


def sweep(trial: Trial, steps: Iterator[Sequence[Batch]], *, num_steps: int = NUM_STEPS) -> LrRange:
    """Step through the learning rates from the lowest to the highest, until the loss diverges.

    Groups of parameters keep the ratio of their learning rates.

    Args:
        trial: what is stepped; its optimizer was made with the learning rate 1.
        steps: the batches of each step, without end.
        num_steps: steps from the lowest to the highest.
    """
    ratios = [float(group["lr"]) for group in trial.optimizer.param_groups]
    largest = max(ratios)
    rates, losses = [], []
    mean, lowest = 0.0, math.inf
    for number in range(num_steps):
        rate = LOWEST_LR * (HIGHEST_LR / LOWEST_LR) ** (number / (num_steps - 1))
        for group, ratio in zip(trial.optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio / largest
        loss = trial.step(next(steps))
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (number + 1))
        rates.append(rate)
        losses.append(smoothed)
        lowest = min(lowest, smoothed)
        if smoothed > DIVERGED * lowest:
            break
    return LrRange(np.array(rates), np.array(losses))


def suggest(found: LrRange) -> float:
    """Return the learning rate half way down the longest valley of the losses, as fastai suggests by default.

    There the loss falls well, and the rate is clear of the one from which it rises.

    Raises:
        UserError: when the loss falls nowhere.
    """
    rates, losses = found.rates[SKIPPED_STEPS:], found.losses[SKIPPED_STEPS:]
    valley = longest_fall(losses)
    if len(valley) < 3 or losses[valley[-1]] >= losses[0]:
        raise UserError(
            f"optimizer.lr=auto: the loss falls at no learning rate from {LOWEST_LR:g} to {HIGHEST_LR:g}",
            "a network that learns something of the data in a hundred steps",
            "a number, as in optimizer.lr=0.001; and look whether the labels belong to the images",
        )
    # Rounded to what is printed, so that the number can be typed again.
    return float(f"{rates[(valley[0] + valley[-1]) // 2]:.2e}")


def longest_fall(values: NDArray[np.float64]) -> list[int]:
    """Return the places of the longest strictly falling subsequence; of several, one that begins late."""
    lengths = np.ones(len(values), dtype=np.int64)
    before = np.full(len(values), -1)
    for place in range(len(values)):
        higher = np.flatnonzero(values[:place] > values[place])
        if len(higher):
            # The last of the longest, so that a plateau before the fall is no part of it.
            before[place] = higher[::-1][lengths[higher][::-1].argmax()]
            lengths[place] = lengths[before[place]] + 1
    places = []
    place = int(lengths.argmax()) if len(values) else -1
    while place >= 0:
        places.append(place)
        place = int(before[place])
    return places[::-1]
