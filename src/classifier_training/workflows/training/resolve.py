"""What a run finds out before it trains: how to compute fast, the largest batch, the learning rate.

What was found before holds when a run goes on. Torch and Lightning are imported by the functions that need them, so
that help and configuration errors come at once.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from classifier_training.callbacks.observer import RunContext
from classifier_training.core.errors import UserError
from classifier_training.core.types import TEST, TRAIN, VAL, Batch
from classifier_training.evaluation.figures.training import LrRangeFigure
from classifier_training.training.decisions import Decisions, Part
from classifier_training.training.settings import TrainerSettings

if TYPE_CHECKING:
    from datetime import timedelta

    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.device import Device
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.transfer import Transfer
    from classifier_training.training.trial import Trial
    from classifier_training.workflows.training.heads import Probe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """The settings of a run with nothing left open.

    Args:
        trainer: with the batches that are accumulated.
        optimizer: with its learning rate.
        device: with the precision and memory format.
        is_compiled: whether the network is compiled.
    """

    trainer: TrainerSettings
    optimizer: functools.partial[Any]
    device: Device
    is_compiled: bool


def settle(
    run: RunContext,
    datamodule: ImageFolderDataModule,
    make: Callable[..., ClassifierModule],
    trainer: TrainerSettings,
    optimizer: functools.partial[Any],
    device: Device,
    batch_size: int | Literal["auto"] | None,
    min_batch_size: int,
    found: Decisions,
    *,
    resumed: bool,
) -> tuple[Settled, Decisions]:
    """Find out what the configuration leaves open, and set the data module's batch size.

    Args:
        run: what is known of the run.
        datamodule: its loaders; its batch size is changed where that is to be found.
        make: makes the module from settings, optimizer and device.
        trainer: settings as configured.
        optimizer: as configured.
        device: the usual choice.
        batch_size: as configured.
        min_batch_size: fewest images that the network can be trained on at once.
        found: what the run found out before.
        resumed: whether it goes on; then nothing is timed that was not timed before.

    Returns:
        The settings, and all that was found, to be kept.

    Raises:
        UserError: when nothing is found: no batch fits, no learning rate lowers the loss, there is no compiler.
    """
    number = optimizer if optimizer.keywords.get("lr") != "auto" else functools.partial(optimizer, lr=1e-3)
    device, is_compiled = _settle_speed(
        datamodule, functools.partial(make, trainer, number), trainer, device, found, resumed=resumed
    )
    found = dataclasses.replace(
        found,
        accelerator=device.accelerator,
        precision=device.precision,
        channels_last=device.channels_last,
        is_compiled=is_compiled,
    )
    if batch_size == "auto":
        trainer, found = _settle_batch_size(
            datamodule, make(trainer, number, device), trainer, device, min_batch_size, found
        )
    if optimizer.keywords.get("lr") == "auto":
        if found.lr is None and resumed:
            raise UserError(
                "optimizer.lr=auto: the range test belongs to the start of a run, and this one goes on",
                "a number",
                "optimizer.lr=0.001; or start anew from its weights: init_from=RUN optimizer.lr=auto",
            )
        if found.lr is None:
            found = dataclasses.replace(found, lr=_find_lr(run, datamodule, make, trainer, optimizer, device))
        log.info("optimizer.lr=auto: %g", found.lr)
        optimizer = functools.partial(optimizer, lr=found.lr)
    return Settled(trainer, optimizer, device, is_compiled), found


def _settle_speed(
    datamodule: ImageFolderDataModule,
    make: Callable[[Device], ClassifierModule],
    trainer: TrainerSettings,
    device: Device,
    found: Decisions,
    *,
    resumed: bool,
) -> tuple[Device, bool]:
    from classifier_training.training.speed import choose_compilation, probe_device, set_float32_products

    known = found.accelerator == device.accelerator
    size, seconds = datamodule.batch_size, 0.0
    if known:
        precision = found.precision if trainer.precision == "auto" else device.precision
        assert precision is not None
        device = dataclasses.replace(device, precision=precision, channels_last=bool(found.channels_last))
    elif resumed:
        if found.accelerator is not None:
            log.warning(
                "the run began on %s and goes on on %s: from here on it is not what it would have been there",
                found.accelerator, device.accelerator,
            )  # fmt: skip
    else:
        num_images = len(datamodule.data.tables[TRAIN]) * trainer.max_epochs
        device, seconds = probe_device(
            make,
            device,
            batch_size=size,
            num_images=num_images,
        )
    if known and trainer.compile == "auto":
        is_compiled = bool(found.is_compiled)
    else:
        is_compiled = choose_compilation(
            make, device, wanted=trainer.compile, batch_size=size, estimated_seconds=seconds
        )
    tf32 = set_float32_products(device)
    log.info(
        "speed: %s precision, %s, %s%s%s",
        device.precision,
        "channels last" if device.channels_last else "channels first",
        "compiled" if is_compiled else "not compiled",
        ", TF32" if tf32 else "",
        f" (as before: {found.accelerator})" if known else f" (timed; about {seconds:,.0f} s)" if seconds else "",
    )
    return device, is_compiled


def _settle_batch_size(
    datamodule: ImageFolderDataModule,
    module: ClassifierModule,
    trainer: TrainerSettings,
    device: Device,
    min_batch_size: int,
    found: Decisions,
) -> tuple[TrainerSettings, Decisions]:
    from classifier_training.training.batch_size import DEFAULT_BATCH_SIZE, find_batch_size

    effective = DEFAULT_BATCH_SIZE * trainer.accumulate_grad_batches
    # Another effective batch, asked for when the run goes on, is made up anew.
    if found.batch_size is None or found.batch_size * (found.accumulate_grad_batches or 1) != effective:
        number = find_batch_size(
            module,
            device,
            effective=effective,
            smallest=min_batch_size,
            num_images=len(datamodule.data.tables[TRAIN]),
        )
        found = dataclasses.replace(found, batch_size=number, accumulate_grad_batches=effective // number)
    assert found.batch_size is not None
    accumulated = found.accumulate_grad_batches or 1
    log.info(
        "data.batch_size=auto: %d, gradients of %d batches make a step of %d images",
        found.batch_size, accumulated, effective,
    )  # fmt: skip
    datamodule.batch_size, datamodule.batches_per_step = found.batch_size, accumulated
    return dataclasses.replace(trainer, accumulate_grad_batches=accumulated), found


def _find_lr(
    run: RunContext,
    datamodule: ImageFolderDataModule,
    make: Callable[..., ClassifierModule],
    trainer: TrainerSettings,
    optimizer: functools.partial[Any],
    device: Device,
) -> float:
    from classifier_training.training.lr_range import NUM_STEPS, suggest, sweep
    from classifier_training.training.trial import trial_of

    log.info("optimizer.lr=auto: %d steps on a copy of the weights, with a rising learning rate", NUM_STEPS)
    module = make(trainer, functools.partial(optimizer, lr=1.0), device)
    with trial_of(module, device.accelerator, device.precision, trainer.gradient_clip_val) as trial:
        found = sweep(trial, _steps(datamodule, trial, trainer.accumulate_grad_batches))
    datamodule.sampler.set_epoch(0)
    lr = suggest(found)
    figure = LrRangeFigure(rates=found.rates.tolist(), losses=found.losses.tolist(), chosen=lr)
    run.drawer.submit(figure, run.run_dir.lr_range)
    return lr


END_SECONDS = 15.0
"""What a run takes after training on two slow cores, with export, checks and report, besides scoring."""

FORWARD_SHARE = 1 / 3
"""Of a step, the seconds that an image takes without its gradient."""


def plan_time(
    datamodule: ImageFolderDataModule,
    module: ClassifierModule,
    settled: Settled,
    transfer: Transfer,
    started: float,
    time: timedelta,
    probe: Probe | None,
) -> tuple[tuple[Part, ...], float]:
    """Plan the epochs that fit into the time that the command has left.

    Args:
        datamodule: its batches are timed.
        module: a copy of it makes the steps.
        settled: precision and the most epochs.
        transfer: what is frozen, which makes steps faster.
        started: when the command began, by time.monotonic().
        time: that it may take.
        probe: says what an image takes without its gradient.

    Returns:
        The plan, empty where the linear probe is all that there is time for; and when training is to be over, by
        time.monotonic().

    Raises:
        UserError: when there is no time for a step, and no probe.
    """
    from classifier_training.models.stages import freeze_stages, split_stages
    from classifier_training.training.budget import Pacing, part_words, plan_epochs, time_images
    from classifier_training.training.transfer import ProbeThenFineTune
    from classifier_training.training.trial import trial_of
    from classifier_training.workflows.training.kept_weights import num_predicted

    device, trainer = settled.device, settled.trainer
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
    end = END_SECONDS + num_scored * image_seconds
    deadline = started + time.total_seconds() - end
    passed, left = monotonic() - started, deadline - monotonic()
    part = plan_epochs(left, pacing, num_batches=len(sizes), per_step=per_step, max_epochs=trainer.max_epochs)
    taken = f"time={time.total_seconds():,.0f} s: {passed:,.0f} s have passed, the end takes about {end:,.0f} s"
    if part is not None:
        log.info("plan: %s (%s)", part_words(part, num_batches=len(sizes), pacing=pacing), taken)
        return (part,), deadline
    if probe is None:
        raise UserError(
            f"{taken}, and a step {batch_seconds * per_step:,.1f} s",
            "time for a step at the least",
            f"time={passed + end + 2 * pacing.epoch_seconds(len(sizes)):.0f}s, with which two epochs fit",
        )
    log.info("plan: no epoch, the linear probe is all that there is time for (%s)", taken)
    return (), deadline


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
