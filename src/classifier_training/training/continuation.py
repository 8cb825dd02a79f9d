"""A run that is resumed with other settings or a new length: what becomes of its schedule and its optimizer."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from torch.optim.lr_scheduler import LambdaLR

from classifier_training.core.errors import UserError
from classifier_training.training.decisions import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytorch_lightning.callbacks import EarlyStopping
    from torch.optim import Optimizer

    from classifier_training.training.budget import Course

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScheduleLength:
    """What the optimizer and its schedule were made from; it travels in the checkpoint.

    Args:
        steps_per_epoch: of the optimizer.
        max_epochs: planned length.
        lr: highest learning rate.
        settings: the optimizer's other settings.
        phase: the part of the run that the schedule goes over.
    """

    steps_per_epoch: int
    max_epochs: int
    lr: float
    settings: Mapping[str, Any]
    phase: Phase


class Continuation(pl.Callback):
    """Compares the schedule of a checkpoint with the run's, and brings optimizer and schedule to what is wanted now.

    Without a change it does nothing, and a resumed run is exact, bit by bit. The schedule is taken from the checkpoint
    and not from the run folder, so a run that is interrupted before its next checkpoint applies the change again.

    Args:
        length: of the run as it is now.
        course: the steps of a run that is planned by time.
    """

    def __init__(self, length: ScheduleLength, course: Course | None = None) -> None:
        self._length, self._course = length, course
        self._before: ScheduleLength | None = None

    def state_dict(self) -> dict[str, Any]:
        """The schedule that the checkpoint belongs to."""
        return asdict(self._length)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the schedule of the checkpoint."""
        self._before = ScheduleLength(**{**state_dict, "phase": Phase(**state_dict["phase"])})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply what has changed since the checkpoint."""
        before, now = self._before, self._length
        if before is None or before == now:
            return
        fresh: Any = pl_module.configure_optimizers()
        optimizer, config = trainer.optimizers[0], trainer.lr_scheduler_configs[0]
        was = _lr(optimizer)
        if before.settings != now.settings:
            take_settings(optimizer, fresh["optimizer"], config.scheduler)
        scheduler, new = config.scheduler, fresh["lr_scheduler"]["scheduler"]
        if before.phase != now.phase:
            scheduler.load_state_dict(new.state_dict())
            if now.phase.is_constant:
                scale_lr(optimizer, scheduler, now.lr / before.lr)
            else:
                restart_lr(optimizer, fresh["optimizer"])
        else:
            scale_lr(optimizer, scheduler, now.lr / before.lr)
            if config.interval == "step" and not now.phase.is_constant:
                step = (trainer.current_epoch - now.phase.from_epoch) * now.steps_per_epoch
                if self._course is not None:
                    step = self._course.steps_before(trainer.current_epoch)
                place_schedule(optimizer, scheduler, step=step)
        if now.max_epochs > before.max_epochs:
            for callback in trainer.early_stopping_callbacks:
                wait_anew(callback)
        if _lr(optimizer) != was:
            log.info("learning rate: %.4g, before %.4g", _lr(optimizer), was)


def take_settings(optimizer: Optimizer, fresh: Optimizer, scheduler: Any) -> None:
    """Give a restored optimizer the settings of one made anew, all but the learning rate.

    Of the learning rates of its groups it takes the ratios, which follow from the decay by depth.

    Raises:
        UserError: when they do not have the same groups of parameters.
    """
    if len(optimizer.param_groups) != len(fresh.param_groups):
        raise UserError(
            "optimizer.*: its settings cannot change now; the run has other groups of parameters than at its start",
            "a run whose layers are all in training",
            "leave the changes out, or start anew from its weights: init_from=RUN",
        )
    before, now = _shares(optimizer), _shares(fresh)
    for place, (group, new) in enumerate(zip(optimizer.param_groups, fresh.param_groups, strict=True)):
        group.update({name: value for name, value in new.items() if name not in ("params", "lr", "initial_lr")})
        ratio = now[place] / before[place]
        # Equal ones stay to the last bit.
        if not math.isclose(ratio, 1):
            for name in ("lr", "initial_lr"):
                if name in group:
                    group[name] *= ratio
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs[place] *= ratio


def _shares(optimizer: Optimizer) -> list[float]:
    """The learning rate of each group over the largest, as they were at the start."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return [rate / max(rates) for rate in rates]


def scale_lr(optimizer: Optimizer, scheduler: Any, ratio: float) -> None:
    """Multiply the learning rate, now and in all that the schedule will make of it."""
    if ratio == 1:
        return
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] *= ratio
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [value * ratio for value in scheduler.base_lrs]


def restart_lr(optimizer: Optimizer, fresh: Optimizer) -> None:
    """Give a restored optimizer the learning rates of one made anew."""
    for group, new in zip(optimizer.param_groups, fresh.param_groups, strict=False):
        group.update({name: new[name] for name in ("lr", "initial_lr") if name in new})


def place_schedule(optimizer: Optimizer, scheduler: Any, *, step: int) -> None:
    """Put a restored schedule at a step of its new length."""
    scheduler.last_epoch = step
    if isinstance(scheduler, LambdaLR):
        # The others of torch's count on from the last learning rate, or look at the step when they are next asked.
        for group, base, factor in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * factor(step)


def wait_anew(callback: EarlyStopping) -> None:
    """Give a run that was made longer the whole patience again."""
    callback.wait_count = callback.stopped_epoch = 0


def _lr(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])
