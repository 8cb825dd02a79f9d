"""Trainer settings, and the signatures of what a run is configured with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.settings import Alias, Duration, Often, Resume, Trait

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pytorch_lightning.loggers import Logger
    from torch import Tensor
    from torch.optim import Optimizer

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel
    from classifier_training.training.optim import SchedulePlan

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["auto", "bf16-mixed", "16-mixed", 32]
NumDevices = Annotated[int, Field(ge=1)] | Literal["auto"]
Norm = Annotated[float, Field(gt=0)]


@register(group="trainer", name="default")
@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Length, device, precision and gradients of a run.

    Args:
        max_epochs: maximum number of passes over the training split.
        max_time: stop training after this long at the next step, wherever the schedule is: 90s, 10m, 1h30m, HH:MM:SS.
            time, beside it, plans a run that comes to its end in time.
        accelerator: auto takes CUDA, else MPS, else the CPU, and says which.
        num_devices: devices that share every batch, a process each; auto takes all CUDA GPUs, or what torchrun started.
            data.batch_size stays the number of images that one step of all of them sees.
        precision: auto takes bf16-mixed where the hardware has it, 16-mixed on older GPUs, else 32.
        accumulate_grad_batches: batches whose gradients make one step.
        gradient_clip_val: largest norm of the gradients; none when left out.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them: less memory,
            about a third more time, the same results.
        compile: compile the network with torch.compile; auto does where a compiler is there, the run is long enough to
            pay for it and a trial is faster.
    """

    max_epochs: Annotated[int, Field(ge=1), Often(3), Resume.DIVERGES, Alias("epochs", "num_epochs")] = 30
    max_time: Annotated[Duration | None, Resume.LIMIT] = None
    accelerator: Annotated[Accelerator, Resume.DIVERGES, Trait.MACHINE, Alias("device")] = "auto"
    num_devices: Annotated[NumDevices, Resume.DIVERGES] = 1
    precision: Annotated[Precision, Resume.DIVERGES, Alias("precision")] = "auto"
    accumulate_grad_batches: Annotated[int, Field(ge=1), Resume.DIVERGES] = 1
    gradient_clip_val: Annotated[Norm | None, Resume.DIVERGES] = None
    gradient_checkpointing: Annotated[bool, Resume.DIVERGES] = False
    compile: Annotated[bool | Literal["auto"], Resume.DIVERGES] = "auto"


class ModelBuilder(Protocol):
    """What `model=` gives: a network with its settings, for a number of classes."""

    def __call__(self, num_classes: int, /) -> BuiltModel: ...  # noqa: D102


class LossBuilder(Protocol):
    """What `loss=` gives: the loss of a batch.

    The prior is the share of each class that the logits [B, K] are adjusted to [K]; it and the class weights [K] may be
    None. Targets are classes [B] or shares of classes [B, K].
    """

    def __call__(  # noqa: D102
        self, logits: Tensor, targets: Tensor, class_weights: Tensor | None, prior: Tensor | None, /
    ) -> Tensor: ...


class SchedulerBuilder(Protocol):
    """What `scheduler=` gives: Lightning's configuration of a learning-rate schedule."""

    def __call__(self, optimizer: Optimizer, plan: SchedulePlan, /) -> dict[str, Any]: ...  # noqa: D102


class SamplerBuilder(Protocol):
    """What `sampler=` gives: the weight of one image of each class [K]; None takes every image once an epoch."""

    def __call__(  # noqa: D102
        self, class_counts: NDArray[np.int64], class_names: Sequence[str], /
    ) -> NDArray[np.float64] | None: ...


class LoggerBuilder(Protocol):
    """What an entry of `logging=` gives: where metrics go besides the run folder."""

    def __call__(self, run_dir: RunDir, /) -> Logger: ...  # noqa: D102
