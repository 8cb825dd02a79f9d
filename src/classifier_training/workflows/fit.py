"""The larger steps of `train`: network, loss and optimizer put together, trained, exported and scored.

Torch and Lightning are imported by the functions that need them, so that help and configuration errors come at once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from classifier_training.callbacks.observer import FitEnd, RunContext
from classifier_training.core.types import TEST, VAL, SplitResult
from classifier_training.training.settings import TrainerSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.device import Device
    from classifier_training.training.imbalance import Correction
    from classifier_training.training.module import ClassifierModule

Builder = Callable[..., Any]


def make_module(
    run: RunContext,
    datamodule: ImageFolderDataModule,
    settings: TrainerSettings,
    device: Device,
    loss: Builder,
    optimizer: Builder,
    scheduler: Builder,
    correction: Correction,
    seed: int,
    min_batch_size: int,
) -> ClassifierModule:
    """Put network, loss and optimizer together for Lightning."""
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.optim import SchedulePlan
    from classifier_training.training.view import TrainingView

    steps_per_epoch = math.ceil(datamodule.num_train_batches / settings.accumulate_grad_batches)
    return ClassifierModule(
        run.model.network,
        loss=loss,
        optimizer=optimizer,
        fused=settings.gradient_clip_val is None or device.precision != "16-mixed",
        scheduler=scheduler,
        plan=SchedulePlan(steps_per_epoch * settings.max_epochs, run.monitor, run.monitor_mode),
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
    )


def fit(
    run: RunContext,
    module: ClassifierModule,
    datamodule: ImageFolderDataModule,
    settings: TrainerSettings,
    device: Device,
    callbacks: Mapping[str, Any],
    loggers: Mapping[str, Builder],
    *,
    resume: bool,
) -> tuple[int, SplitResult]:
    """Train, put the best weights back, let the observers finish, and score the held-out images.

    Scoring comes last: a test image that cannot be read then costs neither the export nor the curves.

    Returns:
        The epoch of the best weights and their answers on test, or on validation where there is no test.
    """
    import pytorch_lightning as pl

    from classifier_training.callbacks.assemble import assemble
    from classifier_training.training.checkpoints import AtomicCheckpointIO, read_checkpoint
    from classifier_training.training.interrupts import told_interrupts
    from classifier_training.training.loggers import finish

    assembly = assemble(run, callbacks)
    for observer in assembly.observers:
        observer.fit_started(run)
    lightning = pl.Trainer(
        accelerator=device.accelerator,
        devices=1,
        precision=device.precision,  # type: ignore[arg-type]
        max_epochs=settings.max_epochs,
        max_time=settings.max_time,
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_val,
        callbacks=assembly.callbacks,
        logger=[build(run.run_dir) for build in loggers.values()],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run.run_dir.path,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(item, pl.callbacks.ProgressBar) for item in assembly.callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
    checkpoint = run.run_dir.last_checkpoint if resume else None
    # All callbacks but the timer of max_time are the interrupted run's, and that one may be left out.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
    held_out = TEST if TEST in run.tables else VAL
    status = "failed"
    try:
        with told_interrupts(run.run_dir):
            lightning.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        best = read_checkpoint(run.run_dir.best_checkpoint)
        module.load_state_dict(best["state_dict"])
        end = FitEnd(rows=assembly.recorder.rows, best_epoch=best["epoch"], best_score=best["score"])
        for observer in assembly.observers:
            observer.fit_ended(run, end)
        module.scored_split = held_out
        loader = datamodule.test_dataloader() if held_out == TEST else datamodule.val_dataloader()
        lightning.test(module, dataloaders=loader, verbose=False)
        status = "success"
    finally:
        finish(lightning.loggers, status=status)
    return best["epoch"], module.results[held_out]


def _tensor(values: NDArray[np.float64] | None) -> Tensor | None:
    import torch

    return None if values is None else torch.from_numpy(values).float()
