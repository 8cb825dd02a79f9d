"""Training steps that leave no trace: they are done on a copy, and every generator is put back."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error
from pytorch_lightning.utilities.seed import isolate_rng

from classifier_training.core.types import Batch
from classifier_training.training.device import autocast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
