"""Training a network: what is left open is settled, the module put together, the head perhaps fitted first."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from classifier_training.callbacks.observer import RunContext
from classifier_training.core.errors import UserError
from classifier_training.core.processes import following
from classifier_training.core.types import TRAIN
from classifier_training.training.decisions import write_decisions
from classifier_training.training.distillation import Distillation
from classifier_training.training.imbalance import Correction
from classifier_training.training.settings import TrainerSettings
from classifier_training.training.transfer import LinearProbe, Transfer
from classifier_training.workflows.training.end import Trained
from classifier_training.workflows.training.fit import Builder, fit, make_module, pace_of, steps_per_epoch
from classifier_training.workflows.training.heads import probe_head
from classifier_training.workflows.training.settle import plan_time, settle
from classifier_training.workflows.training.start import Start
from classifier_training.workflows.training.teaching import make_guide

if TYPE_CHECKING:
    from datetime import timedelta

    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.device import Device
    from classifier_training.workflows.training.network import Network


log = logging.getLogger(__name__)

PROBE_SHARE = 0.25
"""Of a run's time, the most that its linear probe takes."""


@dataclass(frozen=True)
class Parts:
    """What the training of a network is put together from, as configured.

    Args:
        loss: see the module.
        optimizer: its learning rate may be auto.
        scheduler: see the module.
        transfer: which layers learn, and when.
        trainer: length, precision and gradients.
        batch_size: a number, or auto; None for the network's.
        correction: of unbalanced classes.
        retrains_head: whether the last layer is fitted again at the end.
        seed: of the run.
        distillation: the teachers, where there are any.
        time: that the whole command may take; None for all epochs.
    """

    loss: Callable[..., Any]
    optimizer: partial[Any]
    scheduler: Callable[..., Any]
    transfer: Transfer
    trainer: TrainerSettings
    batch_size: int | Literal["auto"] | None
    correction: Correction
    retrains_head: bool
    seed: int
    distillation: Distillation | None = None
    time: timedelta | None = None


def fit_network(
    run: RunContext,
    network: Network,
    datamodule: ImageFolderDataModule,
    parts: Parts,
    device: Device,
    callbacks: Mapping[str, Any],
    loggers: Mapping[str, Builder],
    start: Start,
) -> Trained:
    """Settle what the configuration leaves open, and train from a checkpoint on, or from the beginning.

    Raises:
        UserError: when what is configured cannot be done together.
    """
    from classifier_training.training.budget import Budget

    follows = following() is not None
    datamodule.batches_per_step = parts.trainer.accumulate_grad_batches
    if parts.distillation and device.num_devices > 1:
        raise UserError(
            f"distillation with trainer.num_devices={device.num_devices}: teachers answer one process alone",
            "one of them",
            "trainer.num_devices=1",
        )
    make = partial(
        make_module,
        run,
        datamodule,
        loss=parts.loss,
        scheduler=parts.scheduler,
        correction=parts.correction,
        seed=parts.seed,
        min_batch_size=network.min_batch_size,
        phase=start.decisions.phase,
        unfreezes=parts.transfer.unfreezes,
        guide=make_guide(parts.distillation, run, datamodule, device) if parts.distillation else None,
    )
    settled, decisions = settle(
        run,
        datamodule,
        make,
        parts.trainer,
        parts.optimizer,
        device,
        parts.batch_size,
        network.min_batch_size,
        start.decisions,
        resumed=start.checkpoint is not None or follows,
    )
    if not follows:
        write_decisions(run.run_dir.decisions, decisions)
    check_share(datamodule, device.num_devices, network.min_batch_size)
    module = make(settled.trainer, settled.optimizer, settled.device)
    is_new = start.checkpoint is None and not follows
    probe = None
    if parts.transfer.probes and is_new:
        with run.clock.part("linear probe"):
            probe = probe_head(
                run,
                module,
                datamodule,
                settled.device,
                parts.correction.class_weights,
                is_all=not parts.transfer.trains,
                seconds=PROBE_SHARE * parts.time.total_seconds() if parts.time else None,
                num_images=decisions.num_probe_images,
            )
        decisions = dataclasses.replace(decisions, num_probe_images=probe.num_images)
        write_decisions(run.run_dir.decisions, decisions)
    transfer, trainer, deadline, budget = parts.transfer, settled.trainer, None, None
    if parts.time is not None and transfer.trains and is_new and not decisions.parts:
        planned, deadline = plan_time(datamodule, module, settled, transfer, run.clock.started, parts.time, probe)
        decisions = dataclasses.replace(decisions, parts=planned)
        write_decisions(run.run_dir.decisions, decisions)
        transfer = transfer if planned else LinearProbe()
    if decisions.parts:
        budget = Budget(run.run_dir.decisions, decisions, datamodule, trainer, deadline)
        trainer = budget.begin(0)
        module = make(trainer, settled.optimizer, settled.device, course=budget.course)
    pace = pace_of(datamodule, trainer, settled.optimizer, decisions.phase)
    if budget is not None:
        trainer = budget.begin(start.found.entry.epochs_done if start.found else 0)
        run = dataclasses.replace(run, max_epochs=trainer.max_epochs)
    if transfer.trains:
        log.info("%s", epoch_words(datamodule, trainer))
    if settled.is_compiled:
        module.network.compile()
    return fit(
        run,
        module,
        datamodule,
        trainer,
        settled.device,
        callbacks,
        loggers,
        pace,
        transfer=transfer,
        retrains_head=parts.retrains_head,
        start=start,
        probe=probe,
        budget=budget,
    )


def epoch_words(datamodule: ImageFolderDataModule, settings: TrainerSettings) -> str:
    """Say how many images and steps an epoch has, and what it leaves out."""
    sizes = datamodule.train_batch_sizes
    seen, left = sum(sizes), len(datamodule.data.tables[TRAIN]) - sum(sizes)
    steps = steps_per_epoch(datamodule, settings)
    words = f"epoch: {seen:,} images in {steps:,} step{'' if steps == 1 else 's'}"
    if len(sizes) > steps:
        words += f" of {settings.accumulate_grad_batches} batches"
    if left and datamodule.num_batches is not None:
        words += f"; {left:,} more, others in each epoch, are left out for time"
    elif left:
        words += f"; {left:,} more, others in each epoch, would be a batch too small for the network's batch norms"
    return words


def check_share(datamodule: ImageFolderDataModule, num_ranks: int, min_batch_size: int) -> None:
    """Raise when a process would have too few images of a batch to train on.

    Raises:
        UserError: then.
    """
    number = min(datamodule.train_batch_sizes)
    if num_ranks > 1 and number // num_ranks < min_batch_size:
        raise UserError(
            f"trainer.num_devices={num_ranks}: of the {number} images of a batch a process would have "
            f"{number // num_ranks}",
            f"at least {min_batch_size} a process",
            f"data.batch_size={num_ranks * max(min_batch_size, 8)}, or fewer devices",
        )
