"""Training a network by epochs: module and trainer put together, run, and the best weights put back.

Torch and Lightning are imported by the functions that need them, so that help and configuration errors come at once.
"""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from classifier_training.callbacks.observer import EpochEnd, FitEnd, RunContext
from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.register import describe
from classifier_training.core.runtime import peak_memory_mb
from classifier_training.core.types import PROBE_EPOCH, TEST, VAL, SplitResult
from classifier_training.evaluation.metrics import without_value
from classifier_training.training.transfer import ProbeThenFineTune
from classifier_training.workflows.training.end import LAST_CHECKPOINT, Failures, Trained
from classifier_training.workflows.training.kept_weights import keep_interpolated, keep_new_head

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import pytorch_lightning as pl
    from numpy.typing import NDArray
    from torch import Tensor

    from classifier_training.callbacks.assemble import Assembly
    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.budget import Budget, Course
    from classifier_training.training.continuation import ScheduleLength
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.settings import TrainerSettings
    from classifier_training.workflows.training.heads import Probe
    from classifier_training.workflows.training.job import TrainingJob

log = logging.getLogger(__name__)


def make_module(job: TrainingJob, course: Course | None = None) -> ClassifierModule:
    """Put network, loss and optimizer together for Lightning.

    Args:
        job: with numbers in place of auto.
        course: how far the schedule is, where a budget plans it.
    """
    from classifier_training.training.batch_transforms import TrainingView
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.optim import SchedulePlan, constant

    run, settings, phase = job.run, job.settings, job.decisions.phase
    if course is None:
        # A finished run that only scores again has no step left.
        steps = steps_per_epoch(job.datamodule, job.trainer) * (job.trainer.max_epochs - phase.from_epoch)
        plan = SchedulePlan(max(steps, 1), run.monitor, run.monitor_mode)
    else:
        plan = SchedulePlan(course.total_steps, run.monitor, run.monitor_mode, place=course)
    # torch's fused SGD fails on layers that join those that have a momentum already.
    clips_scaled = job.trainer.gradient_clip_val is not None and job.device.precision == "16-mixed"
    return ClassifierModule(
        run.model.network,
        loss=settings.loss,
        optimizer=settings.optimizer,
        fused=not settings.transfer.unfreezes and not clips_scaled,
        scheduler=constant if phase.is_constant else settings.scheduler,
        plan=plan,
        class_names=run.class_names,
        class_weights=_tensor(job.correction.loss_weights),
        logit_adjustment=_tensor(job.correction.logit_adjustment),
        preprocessing=run.preprocessing,
        channels_last=job.device.channels_last,
        seed=settings.seed,
        min_batch_size=job.network.min_batch_size,
        view=TrainingView(
            transforms=job.datamodule.augmentation,
            num_classes=len(run.class_names),
            image_size=run.preprocessing.size[0],
            max_epochs=job.trainer.max_epochs,
            seed=settings.seed,
        ),
        distillation=job.distillation,
    )


def steps_per_epoch(datamodule: ImageFolderDataModule, settings: TrainerSettings) -> int:
    """Steps of the optimizer in an epoch."""
    return math.ceil(len(datamodule.train_batch_sizes) / settings.accumulate_grad_batches)


def schedule_length(job: TrainingJob) -> ScheduleLength:
    """Say what optimizer and schedule are made from, to be compared when the run is resumed."""
    from classifier_training.training.continuation import ScheduleLength

    chosen = describe(job.settings.optimizer)
    return ScheduleLength(
        steps_per_epoch=steps_per_epoch(job.datamodule, job.trainer),
        max_epochs=job.trainer.max_epochs,
        lr=chosen.pop("lr"),
        settings=chosen,
        phase=job.decisions.phase,
    )


def fit(
    job: TrainingJob,
    module: ClassifierModule,
    length: ScheduleLength,
    probe: Probe | None,
    budget: Budget | None,
) -> Trained:
    """Train and put the best weights back; where it is asked for, the head is then fitted anew.

    Args:
        job: with numbers in place of auto. One whose training has ended takes its rows from the checkpoint.
        module: what to train.
        length: what optimizer and schedule are made from.
        probe: what the linear probe gave, if there was one.
        budget: keeps the run to its plan, where there is one.
    """
    from classifier_training.callbacks.assemble import assemble
    from classifier_training.data.loader import explain_worker_death
    from classifier_training.training.checkpoint_files import read_checkpoint, share_of
    from classifier_training.training.continuation import Continuation
    from classifier_training.training.loggers import closed_after_errors

    run, start, transfer = job.run, job.start, job.settings.transfer
    leads, failures = job.team is None or job.team.leads, Failures()
    assembly = assemble(run, job.settings.callbacks, job.observers)
    if leads:
        for observer in assembly.observers:
            observer.fit_started(run)
    continuation = Continuation(length, None if budget is None else budget.course)
    make_trainer = _trainer_maker(job, assembly, [continuation, *([budget] if budget else [])])
    lightning = make_trainer(**(job.team.trainer_settings(freezes=transfer.freezes) if job.team else {"devices": 1}))
    loggers = lightning.loggers
    if probe is not None and leads:
        assembly.checkpoints.begin_with(module, probe.score, margin=probe.standard_error)
    last: dict[str, Any] | None = None
    ended = ""
    with closed_after_errors(loggers):
        if start.is_trained and start.checkpoint is not None:
            last = read_checkpoint(start.checkpoint)
            assembly.recorder.load_state_dict(last["callbacks"][assembly.recorder.state_key])
            ended = why_ended(lightning, job.trainer, run.run_dir, last["epoch"] + 1, states=last["callbacks"])
        elif not transfer.trains:
            assert probe is not None
            _record_probe(run, assembly, probe)
            ended = "the linear probe is fitted (transfer=linear_probe)"
        else:
            ended = _train_epochs(job, module, lightning, assembly, failures)
        if assembly.checkpoints.unsaved is not None:
            failures.note(LAST_CHECKPOINT, assembly.checkpoints.unsaved)
        if last is None:
            last = {"epoch": lightning.current_epoch - 1, "global_step": lightning.global_step}
        rows = assembly.recorder.rows
        last["score"] = rows[-1].get(run.monitor) if rows else None
        best = _keep_best(job, module, last, failures)

    def score_held_out() -> SplitResult:

        module.scored_split = TEST if TEST in run.tables else VAL
        scorer = lightning if job.team is None else make_trainer(devices=1)
        # One that fails must not take the score with it; the metrics are logged afterwards.
        scorer.loggers = []
        with explain_worker_death():
            scorer.test(module, dataloaders=job.datamodule.evaluation_loader(module.scored_split), verbose=False)
        return module.results[module.scored_split]

    return Trained(
        run=run,
        observers=assembly.observers,
        loggers=loggers,
        end=FitEnd(
            rows=assembly.recorder.rows,
            best_epoch=best["epoch"],
            best_score=best["score"],
            share=share_of(best),
            ended=ended,
        ),
        score=score_held_out,
        source=run.run_dir.best_checkpoint.name,
        keeps_last=assembly.checkpoints.keep_last,
        failures=failures,
    )


def _trainer_maker(job: TrainingJob, assembly: Assembly, first: list[pl.Callback]) -> Callable[..., pl.Trainer]:
    """Return what makes Lightning's trainer for a number of devices; the first callbacks come before the others."""
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    from classifier_training.training.checkpoint_files import AtomicCheckpointIO
    from classifier_training.training.run_callbacks import StageFreezing

    # All callbacks but the timer of max_time are the interrupted run's, and that one may be left out.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
    # On the login node of a cluster.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    run_dir, trainer, transfer = job.run.run_dir, job.trainer, job.settings.transfer
    freezing = [StageFreezing(transfer)] if transfer.freezes else []
    shows_progress = any(isinstance(item, pl.callbacks.ProgressBar) for item in assembly.callbacks)
    leads, callbacks = job.team is None or job.team.leads, [*first, *freezing, *assembly.callbacks]
    return partial(
        pl.Trainer,
        accelerator=job.device.accelerator,
        precision=job.device.precision,  # type: ignore[arg-type]
        max_epochs=trainer.max_epochs,
        max_time=None if job.team else trainer.max_time,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val,
        callbacks=job.team.callbacks(callbacks, trainer.max_time) if job.team else callbacks,
        logger=[build(run_dir) for build in job.settings.logging.values()] if leads else [],
        # Otherwise Lightning takes itself for a task of Slurm where it finds its commands or variables.
        plugins=[AtomicCheckpointIO(), *([] if job.team else [LightningEnvironment()])],
        default_root_dir=run_dir.path,
        enable_model_summary=False,
        enable_progress_bar=leads and shows_progress,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )


def _train_epochs(
    job: TrainingJob,
    module: ClassifierModule,
    lightning: pl.Trainer,
    assembly: Assembly,
    failures: Failures,
) -> str:
    """Train to the end of the schedule, or from a checkpoint on; returns what ended training."""
    from classifier_training.data.loader import explain_worker_death
    from classifier_training.models.stages import gradient_checkpointing
    from classifier_training.training.batch_size import told_out_of_memory

    datamodule, trainer = job.datamodule, job.trainer
    memory = told_out_of_memory(
        job.run.run_dir, batch_size=datamodule.batch_size, accumulate_grad_batches=trainer.accumulate_grad_batches
    )
    checkpointing = gradient_checkpointing(module.network) if trainer.gradient_checkpointing else nullcontext()
    together = job.team.training(job.run.run_dir, job.device, job.start, datamodule) if job.team else None
    with (
        job.run.clock.part("training"),
        together or nullcontext(),
        assembly.interrupts,
        memory,
        explain_worker_death(),
        checkpointing,
    ):
        try:
            lightning.fit(module, datamodule=datamodule, ckpt_path=job.start.checkpoint, weights_only=True)
        except Exception as error:
            # Loggers and callbacks have their last words after the last epoch.
            if isinstance(error, InterruptedRunError) or not assembly.checkpoints.has_ended:
                raise
            failures.note("the end of training", error)
    ended = why_ended(lightning, trainer, job.run.run_dir, lightning.current_epoch)
    log.info("training has ended: %s", ended)
    return ended


def _keep_best(job: TrainingJob, module: ClassifierModule, last: dict[str, Any], failures: Failures) -> dict[str, Any]:
    """Choose the weights that the run keeps and put them into the module; returns what best.ckpt then holds.

    Args:
        job: of the run.
        module: holds the weights of the last step, unless `last` has them.
        last: epoch, global_step and score of the end of training.
        failures: what cannot be done is noted there.
    """
    from classifier_training.training.checkpoint_files import read_checkpoint

    transfer, path = job.settings.transfer, job.run.run_dir.best_checkpoint
    if not path.exists() and last["score"] is None:
        raise without_value(job.run.monitor)
    best = read_checkpoint(path)
    if isinstance(transfer, ProbeThenFineTune):
        with failures.keep("transfer.interpolation"):
            if "state_dict" not in last:
                own = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
                last = {**last, "state_dict": own}
            best = keep_interpolated(job, module, best, last, wanted=transfer.interpolation)
    module.load_state_dict(best["state_dict"])
    if job.settings.retrain_head:
        with failures.keep("retrain_head"):
            best = keep_new_head(job, module, best)
    return best


def why_ended(
    trainer: pl.Trainer,
    settings: TrainerSettings,
    run_dir: RunDir,
    done: int,
    *,
    states: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Say what ended training.

    Args:
        trainer: with the callbacks that end training.
        settings: of the trainer.
        run_dir: the run, which may have been asked to stop.
        done: epochs.
        states: of the callbacks by their keys, from the last checkpoint, where training had ended before.
    """
    from pytorch_lightning.callbacks import EarlyStopping, Timer

    planned = trainer.max_epochs or 0
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, (EarlyStopping, Timer)) and callback.state_key in (states or {}):
            callback.load_state_dict(dict((states or {})[callback.state_key]))
    for stopping in trainer.early_stopping_callbacks:
        if stopping.stopped_epoch:
            return f"{stopping.monitor} has not improved for {stopping.patience} epochs (callbacks.early_stopping)"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (callback.time_remaining() or 0) <= 0:
            return (
                f"trainer.max_time={settings.max_time} is over after {done} of {planned} epochs, before the end of the "
                "schedule; time=… plans one that ends in time"
            )
    if done < planned:
        return f"stopped {'on request ' if run_dir.stop_request.exists() else ''}after {done} of {planned} epochs"
    return f"all {planned} epochs are done" if planned > 1 else "its one epoch is done"


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
