"""Training a network: auto settings resolved, the linear probe, the plan for a time, then the epochs."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.processes import process_rank
from classifier_training.core.runtime import DETAIL
from classifier_training.training.decisions import write_decisions
from classifier_training.training.transfer import LinearProbe
from classifier_training.workflows.training.fit import fit, make_module, schedule_length, steps_per_epoch
from classifier_training.workflows.training.heads import probe_head
from classifier_training.workflows.training.resolve import plan_time, resolve_auto, resolve_compilation
from classifier_training.workflows.training.screen import training_words
from classifier_training.workflows.training.teaching import make_distillation_loss

if TYPE_CHECKING:
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.settings import TrainerSettings
    from classifier_training.workflows.training.end import Trained
    from classifier_training.workflows.training.job import TrainingJob

log = logging.getLogger(__name__)

PROBE_SHARE = 0.25
"""Of a run's time, the most that its linear probe takes."""


def fit_network(job: TrainingJob) -> Trained:
    """Resolve what the settings leave to auto, and train from a checkpoint on, or from the beginning.

    Raises:
        UserError: when what is configured cannot be done together.
    """
    from classifier_training.training.budget import Budget

    is_new = job.start.checkpoint is None and process_rank().leads
    job.datamodule.batches_per_step = job.trainer.accumulate_grad_batches
    if job.settings.distillation:
        loss = make_distillation_loss(job.settings.distillation, job)
        job = dataclasses.replace(job, distillation=loss)
    job = keep_decisions(resolve_auto(job))
    check_share(job.datamodule, job.device.num_devices, job.network.min_batch_size)
    log.info("%s", training_words(job, num_steps=steps_per_epoch(job.datamodule, job.trainer)))
    module = make_module(job)
    time, probe, deadline, budget = job.settings.time, None, None, None
    if job.settings.transfer.probes and is_new:
        with job.run.clock.part("linear probe"):
            probe = probe_head(job, module, seconds=PROBE_SHARE * time.total_seconds() if time else None)
        job = keep_decisions(job.with_decisions(num_probe_images=probe.num_images))
    if job.settings.transfer.trains:
        job = keep_decisions(resolve_compilation(job))
    if time is not None and job.settings.transfer.trains and is_new and not job.decisions.parts:
        planned, deadline, num_calibrated = plan_time(job, module, time, probe)
        job = keep_decisions(job.with_decisions(parts=planned, num_calibrated=num_calibrated))
        job = job if planned else job.with_settings(transfer=LinearProbe())
    job = dataclasses.replace(job, run=dataclasses.replace(job.run, num_calibrated=job.decisions.num_calibrated))
    if job.decisions.parts:
        budget = Budget(job.run.run_dir.decisions, job.decisions, job.datamodule, job.trainer, deadline)
        job = job.with_settings(trainer=budget.begin(0))
        module = make_module(job, budget.course)
    length = schedule_length(job)
    if budget is not None:
        trainer = budget.begin(job.start.epochs_done)
        job = dataclasses.replace(job, run=dataclasses.replace(job.run, max_epochs=trainer.max_epochs))
        job = job.with_settings(trainer=trainer)
    if job.settings.transfer.trains:
        log.info("%s", epoch_words(job.datamodule, job.trainer), extra=DETAIL)
    if job.is_compiled:
        log.info("compile: the network is compiled for its epochs")
        module.network.compile()
    return fit(job, module, length, probe, budget)


def keep_decisions(job: TrainingJob) -> TrainingJob:
    """Write decisions.json, unless another process leads this one; returns the job."""
    if process_rank().leads:
        write_decisions(job.run.run_dir.decisions, job.decisions)
    return job


def epoch_words(datamodule: ImageFolderDataModule, settings: TrainerSettings) -> str:
    """Say how many images and steps an epoch has, and what it leaves out."""
    sizes = datamodule.train_batch_sizes
    seen, left = sum(sizes), len(datamodule.sampler) - sum(sizes)
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
