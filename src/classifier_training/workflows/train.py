"""`train`: from data to a run folder.

`train` is the whole run; the functions below it are its larger steps. Modules that import torch or Lightning are
imported by the steps that need them, so that help and configuration errors come at once.
"""

from __future__ import annotations

import logging as python_logging
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from classifier_training.callbacks.observer import FitEnd, RunContext
from classifier_training.core.register import Choice, describe, register
from classifier_training.core.run_dir import RunDir
from classifier_training.core.runtime import RunLog, command, raise_open_file_limit
from classifier_training.core.types import TEST, TRAIN, VAL, SplitResult
from classifier_training.data.load import load_data
from classifier_training.data.source import DataSource
from classifier_training.data.transforms import Transforms
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.metrics import check_monitor, goal_of
from classifier_training.evaluation.results import write_results
from classifier_training.training.imbalance import Imbalance, correct_imbalance
from classifier_training.training.settings import TrainerSettings
from classifier_training.workflows.record import plain, record_inputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.device import Device
    from classifier_training.training.module import ClassifierModule

log = python_logging.getLogger(__name__)

Builder = Callable[..., Any]


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Args:
        run_dir: where everything is.
        scored: answers of the best weights on the test split, or on validation where there is no test.
        best_epoch: where the weights are from.
        example: one image of the scored split.
    """

    run_dir: RunDir
    scored: SplitResult
    best_epoch: int
    example: str

    def __str__(self) -> str:
        metrics, run = self.scored.metrics, self.run_dir.path
        caution = "" if self.scored.split == TEST else " (there is no test split; these images chose the weights)"
        return (
            f"\n{self.scored.split}: balanced accuracy {metrics['balanced_accuracy']:.4f}, top-1 accuracy "
            f"{metrics['acc_top1']:.4f}, macro F1 {metrics['macro_f1']:.4f} on {len(self.scored.targets):,} images, "
            f"with the weights of epoch {self.best_epoch}{caution}\n"
            f"run folder: {run}\n\nnext:\n"
            f"  {command('evaluate')} run={run}\n"
            f"  {command('predict')} run={run} source={shlex.quote(self.example)}"
        )


@register(group="verb", name="train")
def train(
    *,
    data: Annotated[DataSource, Choice("auto")],
    transforms: Annotated[Transforms, Choice("standard")],
    model: Annotated[Builder, Choice("resnet18")],
    loss: Annotated[Builder, Choice("cross_entropy")],
    optimizer: Annotated[Builder, Choice("adamw")],
    scheduler: Annotated[Builder, Choice("cosine")],
    sampler: Annotated[Builder | None, Choice(None)] = None,
    callbacks: Annotated[Mapping[str, Any], Choice("default", many=True)],
    trainer: Annotated[TrainerSettings, Choice("default")],
    logging: Annotated[Mapping[str, Builder], Choice(None, many=True)],
    imbalance: Imbalance = "auto",
    monitor: str = "val/balanced_accuracy",
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    name: str | None = None,
    category: str | None = None,
    output: str = "outputs",
    resume: str | None = None,
) -> TrainResult:
    """Train a classifier on a folder of images; without data.root, on a built-in sample.

    Args:
        imbalance: correct unbalanced classes by the sampler, by loss weights, not at all, or as seems best.
        monitor: metric that decides which weights are best.
        seed: everything random follows from it.
        name: puts the run under outputs/NAME/.
        category: puts the run under outputs/CATEGORY/.
        output: folder for run folders.
        resume: go on with this interrupted run (a folder, or latest) and its configuration.
    """
    config = plain(describe(dict(locals())))
    with RunLog() as run_log, Drawer() as drawer:
        raise_open_file_limit()
        loaded = load_data(data, seed=seed)
        splits = loaded.splits
        check_monitor(monitor, splits.class_names, setting="monitor")
        correction = correct_imbalance(
            imbalance, sampler, class_counts=splits.counts(TRAIN), class_names=splits.class_names
        )
        log.info("%s\nimbalance: %s", loaded.words, correction.words)

        import torch

        from classifier_training.data.datamodule import ImageFolderDataModule, choose_num_workers
        from classifier_training.models.forward import fit_input
        from classifier_training.training.device import choose_device

        device = choose_device(trainer.accelerator, trainer.precision)
        log.info("device: %s", device.words)
        torch.manual_seed(seed)
        built = model(splits.num_classes)
        log.info("model: %s, %s", built.architecture, "trained weights" if built.pretrained else "random weights")
        image_size = data.image_size or built.input_spec.size
        min_batch_size = fit_input(built, image_size=image_size, batch_size=data.batch_size)
        datamodule = ImageFolderDataModule(
            splits,
            preprocessing=transforms.evaluation(image_size, built.input_spec),
            augmentation=transforms,
            class_weights=correction.sampler_weights,
            batch_size=data.batch_size,
            num_workers=choose_num_workers(data.num_workers, accelerator=device.accelerator),
            on_error=data.on_error,
            seed=seed,
        )
        run_dir = RunDir(Path(resume)) if resume else RunDir.create(Path(output), category=category, name=name)
        run_log.open(run_dir.log)
        record_inputs(run_dir, config, loaded.index)
        run = RunContext(
            run_dir=run_dir,
            config=config,
            class_names=splits.class_names,
            tables=splits.tables,
            statistics=loaded.statistics,
            image_sizes=loaded.image_sizes,
            draws=lambda epoch: datamodule.sampler.draws(epoch, splits.num_classes),
            model=built,
            preprocessing=datamodule.preprocessing,
            monitor=monitor,
            monitor_mode=goal_of(monitor),
            max_epochs=trainer.max_epochs,
            drawer=drawer,
        )
        module = make_module(
            run, datamodule, trainer, device, loss, optimizer, scheduler, correction.loss_weights, seed, min_batch_size
        )
        best_epoch, scored = fit(run, module, datamodule, trainer, device, callbacks, logging, resume=bool(resume))
        table = splits.tables[scored.split]
        write_results(run_dir.evaluation, scored, table, splits.class_names, drawer)
    return TrainResult(run_dir, scored, best_epoch, example=table.paths[0])


def make_module(
    run: RunContext,
    datamodule: ImageFolderDataModule,
    settings: TrainerSettings,
    device: Device,
    loss: Builder,
    optimizer: Builder,
    scheduler: Builder,
    class_weights: NDArray[np.float64] | None,
    seed: int,
    min_batch_size: int,
) -> ClassifierModule:
    """Put network, loss and optimizer together for Lightning."""
    import torch

    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.optim import SchedulePlan

    steps_per_epoch = math.ceil(datamodule.num_train_batches / settings.accumulate_grad_batches)
    return ClassifierModule(
        run.model.network,
        loss=loss,
        optimizer=optimizer,
        fused=settings.gradient_clip_val is None or device.precision != "16-mixed",
        scheduler=scheduler,
        plan=SchedulePlan(steps_per_epoch * settings.max_epochs, run.monitor, run.monitor_mode),
        class_names=run.class_names,
        class_weights=None if class_weights is None else torch.from_numpy(class_weights).float(),
        preprocessing=run.preprocessing,
        channels_last=device.channels_last,
        seed=seed,
        min_batch_size=min_batch_size,
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
    held_out = TEST if TEST in run.tables else VAL
    status = "failed"
    try:
        with told_interrupts(run.run_dir):
            lightning.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        best = read_checkpoint(run.run_dir.best_checkpoint)
        module.load_state_dict(best["state_dict"])
        module.scored_split = held_out
        loader = datamodule.test_dataloader() if held_out == TEST else datamodule.val_dataloader()
        lightning.test(module, dataloaders=loader, verbose=False)
        status = "success"
    finally:
        finish(lightning.loggers, status=status)
    end = FitEnd(rows=assembly.recorder.rows, best_epoch=best["epoch"], best_score=best["score"])
    for observer in assembly.observers:
        observer.fit_ended(run, end)
    return best["epoch"], module.results[held_out]
