"""What a run decides before it trains: how to compute fast, the largest batch, the learning rate, the plan for a time.

What was decided before holds when a run is resumed. Torch and Lightning are imported by the functions that need them,
so that help and configuration errors come at once.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.processes import process_rank
from classifier_training.core.runtime import DETAIL
from classifier_training.core.types import TEST, TRAIN, VAL, Batch
from classifier_training.evaluation.figures.training import LrRangeFigure
from classifier_training.workflows.training.fit import make_module

if TYPE_CHECKING:
    from datetime import timedelta

    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.decisions import Part
    from classifier_training.training.device import Device
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.trial import Trial
    from classifier_training.workflows.training.heads import Probe
    from classifier_training.workflows.training.job import TrainingJob

log = logging.getLogger(__name__)


def resolve_auto(job: TrainingJob) -> TrainingJob:
    """Put numbers in place of auto: precision and memory format, batch size, learning rate.

    What the run has decided before holds; a run that is resumed times nothing that was not timed before. The batch size
    of the data module is set where it is found here.

    Returns:
        The job with these settings and with what was decided, to be kept.

    Raises:
        UserError: when nothing is found: no batch fits, no learning rate lowers the loss.
    """
    wanted = job.settings.optimizer.keywords.get("lr")
    is_resumed = job.start.checkpoint is not None or not process_rank().leads
    job = _resolve_speed(job, is_resumed=is_resumed)
    if job.settings.data.batch_size == "auto":
        job = _resolve_batch_size(job)
    if wanted == "auto":
        if job.decisions.lr is None and is_resumed:
            raise UserError(
                "optimizer.lr=auto: the range test belongs to the start of a run, and this one is resumed",
                "a number",
                "optimizer.lr=0.001; or start anew from its weights: init_from=RUN optimizer.lr=auto",
            )
        if job.decisions.lr is None:
            job = job.with_decisions(lr=_find_lr(job))
        log.info("optimizer.lr=auto: %g", job.decisions.lr)
        job = job.with_settings(optimizer=functools.partial(job.settings.optimizer, lr=job.decisions.lr))
    return job


def _trial_module(job: TrainingJob, lr: float = 1e-3) -> ClassifierModule:
    """Make a module to try things with; a learning rate that is still to be found is given a number."""
    if job.settings.optimizer.keywords.get("lr") == "auto":
        job = job.with_settings(optimizer=functools.partial(job.settings.optimizer, lr=lr))
    return make_module(job)


def _resolve_speed(job: TrainingJob, *, is_resumed: bool) -> TrainingJob:
    """Choose precision and memory format; nothing is timed for a linear probe alone, which is one pass over the images.

    Raises:
        UserError: when compilation is asked for and the machine has no compiler, which nobody shall learn later.
    """
    from classifier_training.training.speed import check_compiler, probe_device, set_float32_products

    device, decided, trainer = job.device, job.decisions, job.trainer
    check_compiler(device, wanted=trainer.compile)
    seconds = 0.0
    known = decided.accelerator == device.accelerator
    if known:
        precision = decided.precision if trainer.precision == "auto" else device.precision
        assert precision is not None
        device = dataclasses.replace(device, precision=precision, channels_last=bool(decided.channels_last))
    elif is_resumed:
        if decided.accelerator is not None:
            log.warning(
                "the run began on %s and is resumed on %s: from here on it is not what it would have been there",
                decided.accelerator, device.accelerator,
            )  # fmt: skip
    elif job.settings.transfer.trains:
        device, seconds = probe_device(
            functools.partial(_module_for, job),
            device,
            batch_size=job.datamodule.batch_size,
            num_images=len(job.datamodule.sampler) * trainer.max_epochs,
        )
    tf32 = set_float32_products(device)
    log.info(
        "speed: %s precision, %s%s%s",
        device.precision,
        "channels last" if device.channels_last else "channels first",
        ", TF32" if tf32 else "",
        f" (as before: {decided.accelerator})" if known else f" (timed; about {seconds:,.0f} s)" if seconds else "",
        extra=DETAIL,
    )
    return dataclasses.replace(job, device=device, estimated_seconds=seconds).with_decisions(
        accelerator=device.accelerator,
        precision=device.precision,
        channels_last=device.channels_last,
        is_compiled=decided.is_compiled if known else None,
    )


def resolve_compilation(job: TrainingJob) -> TrainingJob:
    """Decide whether the network is compiled for its epochs; what the run decided before holds.

    Compiling a trial takes a minute or more, so it comes after the linear probe, whose score is there by then, and not
    where the time of the run is short.
    """
    from classifier_training.training.speed import choose_compilation

    trainer, decided = job.trainer, job.decisions
    limits = [limit.total_seconds() for limit in (job.settings.time, trainer.max_time) if limit is not None]
    if trainer.compile == "auto" and decided.is_compiled is not None:
        is_compiled = decided.is_compiled
    else:
        is_compiled = choose_compilation(
            functools.partial(_module_for, job),
            job.device,
            wanted=trainer.compile,
            batch_size=job.datamodule.batch_size,
            estimated_seconds=min([job.estimated_seconds, *limits]),
        )
    return dataclasses.replace(job, is_compiled=is_compiled).with_decisions(is_compiled=is_compiled)


def _module_for(job: TrainingJob, device: Device) -> ClassifierModule:
    return _trial_module(dataclasses.replace(job, device=device))


def _resolve_batch_size(job: TrainingJob) -> TrainingJob:
    from classifier_training.training.batch_size import DEFAULT_BATCH_SIZE, find_batch_size

    effective = DEFAULT_BATCH_SIZE * job.trainer.accumulate_grad_batches
    number, accumulated = job.decisions.batch_size, job.decisions.accumulate_grad_batches or 1
    # Another effective batch, asked for when the run is resumed, is found anew.
    if number is None or number * accumulated != effective:
        number = find_batch_size(
            _trial_module(job),
            job.device,
            effective=effective,
            smallest=job.network.min_batch_size,
            num_images=len(job.datamodule.sampler),
        )
        accumulated = effective // number
    log.info(
        "data.batch_size=auto: %d, gradients of %d batches make a step of %d images", number, accumulated, effective
    )
    job.datamodule.batch_size, job.datamodule.batches_per_step = number, accumulated
    trainer = dataclasses.replace(job.trainer, accumulate_grad_batches=accumulated)
    return job.with_settings(trainer=trainer).with_decisions(batch_size=number, accumulate_grad_batches=accumulated)


def _find_lr(job: TrainingJob) -> float:
    from classifier_training.training.trial import NUM_STEPS, suggest, sweep, trial_of

    log.info("optimizer.lr=auto: %d steps on a copy of the weights, with a rising learning rate", NUM_STEPS)
    module = _trial_module(job, lr=1.0)
    with trial_of(module, job.device.accelerator, job.device.precision, job.trainer.gradient_clip_val) as trial:
        found = sweep(trial, _steps(job.datamodule, trial, job.trainer.accumulate_grad_batches))
    job.datamodule.sampler.set_epoch(0)
    lr = suggest(found)
    figure = LrRangeFigure(rates=found.rates.tolist(), losses=found.losses.tolist(), chosen=lr)
    job.run.drawer.submit(figure, job.run.run_dir.lr_range)
    return lr


END_SECONDS = 15.0
"""What a run takes after training on two slow cores, with export, checks and report, besides predicting images."""

CALIBRATION_SHARE, MIN_CALIBRATED = 0.2, 200
"""Of the time, what the images may take that novelty and the copies for `watch` are predicted for, but for those of
validation; and the training images that are taken however short the time is."""

FORWARD_SHARE = 1 / 3
"""Of a step, the seconds that an image takes without its gradient."""

EXPORTED_SHARE = 2 / 3
"""Of the seconds that an image takes in PyTorch on the CPU, those that it takes in ONNX Runtime."""


def plan_time(
    job: TrainingJob, module: ClassifierModule, time: timedelta, probe: Probe | None
) -> tuple[tuple[Part, ...], float, int | None]:
    """Plan the epochs that fit into the time that the command has left.

    Args:
        job: its batches are timed; it has the most epochs.
        module: a copy of it makes the steps.
        time: that the command may take.
        probe: says what an image takes without its gradient.

    Returns:
        The plan, empty where the linear probe is all that there is time for; when training is to be over, by
        time.monotonic(); and the training images to calibrate with, None for as many as usual.

    Raises:
        UserError: when there is no time for a step, and no probe.
    """
    from classifier_training.export.calibrate import MAX_TRAINING_IMAGES, MAX_VALIDATION_IMAGES, num_changed
    from classifier_training.models.stages import freeze_stages, split_stages
    from classifier_training.monitoring.reference import NUM_CHANGES
    from classifier_training.training.budget import Pacing, part_words, plan_epochs, time_images
    from classifier_training.training.transfer import ProbeThenFineTune
    from classifier_training.training.trial import trial_of
    from classifier_training.workflows.training.kept_weights import num_predicted

    datamodule, trainer, transfer, device = job.datamodule, job.trainer, job.settings.transfer, job.device
    started = job.run.clock.started
    sizes, per_step = datamodule.train_batch_sizes, trainer.accumulate_grad_batches
    with trial_of(module, device.accelerator, device.precision, trainer.gradient_clip_val) as trial:
        if transfer.freezes:
            network = trial.module.network
            stages = split_stages(network)
            num_frozen = transfer.num_frozen(trainer.max_epochs, len(stages))
            freeze_stages(network, stages, num_frozen, freezes_statistics=transfer.freezes_statistics)
        (batch, *_) = next(_steps(datamodule, trial, 1))
        image_seconds = time_images(trial, batch, device.accelerator)
    datamodule.sampler.set_epoch(0)
    held_out = {name: len(table) for name, table in datamodule.data.tables.items() if name != TRAIN}
    batch_seconds = image_seconds * sizes[0]
    image_seconds *= FORWARD_SHARE
    if probe is not None:
        image_seconds = probe.seconds / (probe.num_images + held_out[VAL])
    pacing = Pacing(batch_seconds=batch_seconds, validation_seconds=held_out[VAL] * image_seconds)
    num_scored = held_out.get(TEST, held_out[VAL])
    if isinstance(transfer, ProbeThenFineTune):
        num_scored += num_predicted(transfer.interpolation, held_out[VAL])
    usual = min(MAX_TRAINING_IMAGES, len(datamodule.data.tables[TRAIN]))
    looked_at = min(held_out[VAL], MAX_VALIDATION_IMAGES)
    exported_seconds = image_seconds * (EXPORTED_SHARE if device.accelerator == "cpu" else 1)
    # Each image that is looked at has a copy.
    affordable = int(CALIBRATION_SHARE * time.total_seconds() / exported_seconds / 2) - looked_at
    calibrated = min(usual, max(MIN_CALIBRATED, affordable))
    num_exported = looked_at + calibrated + NUM_CHANGES * num_changed(held_out[VAL], calibrated)
    end = END_SECONDS + num_scored * image_seconds + num_exported * exported_seconds
    num_calibrated = calibrated if calibrated < usual else None
    deadline = started + time.total_seconds() - end
    passed, left = monotonic() - started, deadline - monotonic()
    part = plan_epochs(
        left,
        pacing,
        num_batches=len(sizes),
        per_step=per_step,
        max_epochs=trainer.max_epochs,
        batch_size=datamodule.batch_size,
    )
    taken = f"time={time.total_seconds():,.0f} s: {passed:,.0f} s have passed, the end takes about {end:,.0f} s"
    if part is not None:
        log.info("plan: %s (%s)", part_words(part, num_batches=len(sizes), pacing=pacing), taken)
        return (part,), deadline, num_calibrated
    if probe is None:
        raise UserError(
            f"{taken}, and a step {batch_seconds * per_step:,.1f} s",
            "time for a step at the least",
            f"time={passed + end + 2 * pacing.epoch_seconds(len(sizes)):.0f}s, with which two epochs fit",
        )
    late = ", and the command takes longer than that" if passed + end > time.total_seconds() else ""
    log.info("plan: no epoch, the linear probe is all that there is time for%s (%s)", late, taken)
    return (), deadline, num_calibrated


def _steps(datamodule: ImageFolderDataModule, trial: Trial, accumulate: int) -> Iterator[Sequence[Batch]]:
    """Yield the batches of one step after the other, epoch after epoch."""
    step: list[Batch] = []
    epoch = 0
    while True:
        datamodule.sampler.set_epoch(epoch)
        for batch in datamodule.train_dataloader():
            step.append(datamodule.on_after_batch_transfer(trial.moved(batch), 0))
            if len(step) == accumulate:
                yield step
                step = []
        epoch += 1
