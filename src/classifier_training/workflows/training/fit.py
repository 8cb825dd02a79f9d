"""The larger steps of `train`: network, loss and optimizer put together and trained.

Torch and Lightning are imported by the functions that need them, so that help and configuration errors come at once.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from classifier_training.callbacks.observer import EpochEnd, FitEnd, RunContext
from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.register import describe
from classifier_training.core.runtime import peak_memory_mb
from classifier_training.core.types import PROBE_EPOCH, TEST, VAL, SplitResult
from classifier_training.training.decisions import Phase
from classifier_training.training.settings import TrainerSettings
from classifier_training.workflows.training.end import LAST_CHECKPOINT, Failures, Trained
from classifier_training.workflows.training.kept_weights import keep_interpolated, keep_new_head

if TYPE_CHECKING:
    import numpy as np
    import pytorch_lightning as pl
    from numpy.typing import NDArray
    from torch import Tensor

    from classifier_training.callbacks.assemble import Assembly
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.budget import Budget, Course
    from classifier_training.training.continuation import Pace
    from classifier_training.training.device import Device
    from classifier_training.training.guide import Guide
    from classifier_training.training.imbalance import Correction
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.transfer import Transfer
    from classifier_training.workflows.training.heads import Probe
    from classifier_training.workflows.training.start import Start

log = logging.getLogger(__name__)

Builder = Callable[..., Any]


def make_module(
    run: RunContext,
    datamodule: ImageFolderDataModule,
    settings: TrainerSettings,
    optimizer: Builder,
    device: Device,
    *,
    loss: Builder,
    scheduler: Builder,
    correction: Correction,
    seed: int,
    min_batch_size: int,
    phase: Phase,
    unfreezes: bool,
    guide: Guide | None = None,
    course: Course | None = None,
) -> ClassifierModule:
    """Put network, loss and optimizer together for Lightning."""
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.optim import SchedulePlan, constant
    from classifier_training.training.view import TrainingView

    if course is None:
        # A finished run that only scores again has no step left.
        steps = steps_per_epoch(datamodule, settings) * (settings.max_epochs - phase.from_epoch)
        plan = SchedulePlan(max(steps, 1), run.monitor, run.monitor_mode)
    else:
        plan = SchedulePlan(course.total_steps, run.monitor, run.monitor_mode, place=course)
    return ClassifierModule(
        run.model.network,
        loss=loss,
        optimizer=optimizer,
        # torch's fused SGD fails on layers that join those that have a momentum already.
        fused=not unfreezes and (settings.gradient_clip_val is None or device.precision != "16-mixed"),
        scheduler=constant if phase.is_constant else scheduler,
        plan=plan,
        class_names=run.class_names,
        class_weights=_tensor(correction.loss_weights),
        logit_adjustment=_tensor(correction.logit_adjustment),
        preprocessing=run.preprocessing,
        channels_last=device.channels_last,
        seed=seed,
        min_batch_size=min_batch_size,
        view=TrainingView(
            transforms=datamodule.augmentation,
            num_classes=len(run.class_names),
            image_size=run.preprocessing.size[0],
            max_epochs=settings.max_epochs,
            seed=seed,
        ),
        guide=guide,
    )


def steps_per_epoch(datamodule: ImageFolderDataModule, settings: TrainerSettings) -> int:
    """Steps of the optimizer in an epoch."""
    return math.ceil(len(datamodule.train_batch_sizes) / settings.accumulate_grad_batches)


def pace_of(datamodule: ImageFolderDataModule, settings: TrainerSettings, optimizer: Builder, phase: Phase) -> Pace:
    """Say what optimizer and schedule are made from, to be compared when the run goes on."""
    from classifier_training.training.continuation import Pace

    chosen = describe(optimizer)
    return Pace(
        steps_per_epoch=steps_per_epoch(datamodule, settings),
        max_epochs=settings.max_epochs,
        lr=chosen.pop("lr"),
        settings=chosen,
        phase=phase,
    )


def fit(
    run: RunContext,
    module: ClassifierModule,
    datamodule: ImageFolderDataModule,
    settings: TrainerSettings,
    device: Device,
    callbacks: Mapping[str, Any],
    loggers: Mapping[str, Builder],
    pace: Pace,
    *,
    transfer: Transfer,
    retrains_head: bool,
    start: Start,
    probe: Probe | None = None,
    budget: Budget | None = None,
) -> Trained:
    """Train and put the best weights back; where it is asked for, the head is then fitted anew.

    Args:
        run: what is known of the run.
        module: what to train.
        datamodule: on what.
        settings: for how long.
        device: where.
        callbacks: as configured.
        loggers: as configured.
        pace: what optimizer and schedule are made from.
        transfer: which stages are frozen when.
        retrains_head: whether the head is fitted anew.
        start: where the run begins, or is taken up; one whose training has ended takes its rows from the checkpoint.
        probe: what the linear probe gave.
        budget: keeps the run to its plan, where there is one.
    """
    import pytorch_lightning as pl

    from classifier_training.callbacks.assemble import assemble
    from classifier_training.data.loader import explain_worker_death
    from classifier_training.models.stages import gradient_checkpointing
    from classifier_training.training.batch_size import told_out_of_memory
    from classifier_training.training.checkpoint_files import AtomicCheckpointIO, read_checkpoint, share_of
    from classifier_training.training.continuation import Continuation
    from classifier_training.training.freezing import StageFreezing
    from classifier_training.training.interrupts import Interrupts
    from classifier_training.training.loggers import closed_after_errors
    from classifier_training.training.transfer import ProbeThenFineTune
    from classifier_training.workflows.training.team import Team

    team = Team(run.run_dir, device, start.checkpoint)
    assembly = assemble(run, callbacks)
    if team.leads:
        for observer in assembly.observers:
            observer.fit_started(run)
    interrupts = Interrupts(run.run_dir, assembly.checkpoints)
    make_trainer = partial(
        pl.Trainer,
        accelerator=device.accelerator,
        precision=device.precision,  # type: ignore[arg-type]
        max_epochs=settings.max_epochs,
        max_time=settings.max_time,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_val,
        callbacks=team.callbacks(
            [
                Continuation(pace),
                *([budget] if budget else []),
                *([StageFreezing(transfer)] if transfer.freezes else []),
                *assembly.callbacks,
                interrupts,
            ]
        ),
        logger=[build(run.run_dir) for build in loggers.values()] if team.leads else [],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run.run_dir.path,
        enable_checkpointing=team.leads,
        enable_model_summary=False,
        enable_progress_bar=team.leads
        and any(isinstance(item, pl.callbacks.ProgressBar) for item in assembly.callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
    lightning = make_trainer(devices=device.num_devices, strategy=team.strategy(freezes=transfer.freezes))
    # All callbacks but the timer of max_time are the interrupted run's, and that one may be left out.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
    memory = told_out_of_memory(
        run.run_dir, batch_size=datamodule.batch_size, accumulate_grad_batches=settings.accumulate_grad_batches
    )
    opened, failures = lightning.loggers, Failures()
    last: dict[str, Any] | None = None
    if probe is not None and team.leads:
        assembly.checkpoints.begin_with(module, probe.score, margin=probe.standard_error)
    with closed_after_errors(opened):
        if start.is_trained and start.checkpoint is not None:
            recorder, last = assembly.recorder, read_checkpoint(start.checkpoint)
            recorder.load_state_dict(last["callbacks"][recorder.state_key])
        elif not transfer.trains:
            assert probe is not None
            _record_probe(run, assembly, probe)
        else:
            checkpointing = gradient_checkpointing(module.network) if settings.gradient_checkpointing else nullcontext()
            with (
                run.clock.part("training"),
                team.sharing(datamodule),
                interrupts,
                memory,
                explain_worker_death(),
                checkpointing,
            ):
                try:
                    lightning.fit(module, datamodule=datamodule, ckpt_path=start.checkpoint, weights_only=True)
                except Exception as error:
                    # Loggers and callbacks have their last words after the last epoch.
                    if isinstance(error, InterruptedRunError) or not assembly.checkpoints.has_ended:
                        raise
                    failures.note("the end of training", error)
            log.info("training has ended: %s", why_ended(lightning, settings))
        if not team.leads:
            raise SystemExit(0)
        if assembly.checkpoints.unsaved is not None:
            failures.note(LAST_CHECKPOINT, assembly.checkpoints.unsaved)
        best = read_checkpoint(run.run_dir.best_checkpoint)
        if isinstance(transfer, ProbeThenFineTune):
            with failures.keep("transfer.interpolation"):
                last = last or {
                    "state_dict": {name: value.detach().cpu().clone() for name, value in module.state_dict().items()},
                    "epoch": lightning.current_epoch - 1,
                    "global_step": lightning.global_step,
                }
                last["score"] = assembly.recorder.rows[-1][run.monitor]
                best = keep_interpolated(run, module, datamodule, device, best, last, wanted=transfer.interpolation)
        module.load_state_dict(best["state_dict"])
        if retrains_head:
            with failures.keep("retrain_head"):
                best = keep_new_head(run, module, datamodule, device, best)

    def score_held_out() -> SplitResult:
        module.scored_split = TEST if TEST in run.tables else VAL
        scorer = lightning if team.is_one else make_trainer(devices=1)
        # One that fails must not take the score with it; it is told of the metrics afterwards.
        scorer.loggers = []
        with explain_worker_death():
            scorer.test(module, dataloaders=datamodule.evaluation_loader(module.scored_split), verbose=False)
        return module.results[module.scored_split]

    return Trained(
        run=run,
        observers=assembly.observers,
        loggers=opened,
        end=FitEnd(
            rows=assembly.recorder.rows,
            best_epoch=best["epoch"],
            best_score=best["score"],
            share=share_of(best),
        ),
        score=score_held_out,
        source=run.run_dir.best_checkpoint.name,
        keeps_last=assembly.checkpoints.keep_last,
        failures=failures,
    )


def why_ended(trainer: pl.Trainer, settings: TrainerSettings) -> str:
    """Say what ended training."""
    from pytorch_lightning.callbacks import Timer

    done, planned = trainer.current_epoch, trainer.max_epochs
    for stopping in trainer.early_stopping_callbacks:
        if stopping.stopped_epoch:
            return f"{stopping.monitor} has not improved for {stopping.patience} epochs (callbacks.early_stopping)"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (callback.time_remaining() or 0) <= 0:
            return (
                f"trainer.max_time={settings.max_time} is over after {done} of {planned} epochs, before the end of the "
                "schedule; time=… plans one that ends in time"
            )
    return f"all {planned} epochs are done" if done == planned else f"stopped after {done} of {planned} epochs"


def _record_probe(run: RunContext, assembly: Assembly, probe: Probe) -> None:
    """Leave what an epoch leaves, of a run that is a linear probe alone."""
    row = {
        "epoch": 0,
        "step": 0,
        **{f"{VAL}/{name}": value for name, value in probe.result.metrics.items()},
        "epoch_seconds": probe.seconds,
        "images_per_second": probe.num_images / probe.seconds,
        "peak_memory_mb": peak_memory_mb(),
    }
    assembly.recorder.add(row)
    for observer in assembly.observers:
        observer.epoch_ended(
            run, EpochEnd(epoch=0, rows=assembly.recorder.rows, validation=probe.result, best_epoch=PROBE_EPOCH)
        )


def _tensor(values: NDArray[np.float64] | None) -> Tensor | None:
    import torch

    return None if values is None else torch.from_numpy(values).float()
