"""Trainer settings: length, device, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.settings import Duration, Resume, Trait

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["auto", "bf16-mixed", "16-mixed", 32]
NumDevices = Annotated[int, Field(ge=1)] | Literal["auto"]
Norm = Annotated[float, Field(gt=0)]


@register(group="trainer", name="default")
@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Length, device, precision and gradients of a run.

    Args:
        max_epochs: how often the training split is gone through at the most.
        max_time: stop training after this long at the next step, wherever the schedule is: 90s, 10m, 1h30m, HH:MM:SS.
            time, beside it, plans a run that comes to its end in time.
        accelerator: auto takes CUDA, else MPS, else the CPU, and says which.
        num_devices: devices that share every batch, a process each; auto takes all CUDA GPUs. data.batch_size stays the
            number of images that one step of all of them sees.
        precision: auto takes bf16-mixed where the hardware has it, 16-mixed on older GPUs, else 32.
        accumulate_grad_batches: batches whose gradients make one step.
        gradient_clip_val: largest norm of the gradients; none when left out.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them: less memory,
            about a third more time, the same results.
        compile: compile the network with torch.compile; auto does where a compiler is there, the run is long enough to
            pay for it and a trial is faster.
    """

    max_epochs: Annotated[int, Field(ge=1), Resume.DIVERGES] = 30
    max_time: Annotated[Duration | None, Resume.LIMIT] = None
    accelerator: Annotated[Accelerator, Resume.DIVERGES, Trait.MACHINE] = "auto"
    num_devices: Annotated[NumDevices, Resume.DIVERGES] = 1
    precision: Annotated[Precision, Resume.DIVERGES] = "auto"
    accumulate_grad_batches: Annotated[int, Field(ge=1), Resume.DIVERGES] = 1
    gradient_clip_val: Annotated[Norm | None, Resume.DIVERGES] = None
    gradient_checkpointing: Annotated[bool, Resume.DIVERGES] = False
    compile: Annotated[bool | Literal["auto"], Resume.DIVERGES] = "auto"
