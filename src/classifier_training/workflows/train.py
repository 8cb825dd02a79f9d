"""`train`: from data to a run folder.

`train` is the whole run; its larger steps are in `fit`. Modules that import torch or Lightning are imported when they
are needed, so that help and configuration errors come at once.
"""

from __future__ import annotations

import logging as python_logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from classifier_training.callbacks.observer import RunContext
from classifier_training.core.locks import work_in
from classifier_training.core.register import Choice, describe, register
from classifier_training.core.run_dir import RunDir
from classifier_training.core.runtime import RunLog, command, raise_open_file_limit, setting
from classifier_training.core.types import TEST, TRAIN, VAL, SplitResult, goal_of
from classifier_training.data.load import load_data
from classifier_training.data.preflight import preflight
from classifier_training.data.source import DataSource
from classifier_training.data.splits import read_manifest
from classifier_training.data.store.plan import open_stores
from classifier_training.data.transforms import Transforms
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.metrics import check_monitor
from classifier_training.evaluation.results import write_results
from classifier_training.training.imbalance import Imbalance, correct_imbalance
from classifier_training.training.settings import TrainerSettings
from classifier_training.workflows.fit import Builder, fit, make_module
from classifier_training.workflows.record import plain, record_inputs, record_result

log = python_logging.getLogger(__name__)


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
            f"run folder: {run}{self._next()}"
        )

    def _next(self) -> str:
        if not self.run_dir.model_info.exists():
            return "   (its model was not exported: callbacks.onnx_export is switched off)"
        run = setting("run", self.run_dir.path)
        return (
            f"\n\nnext:\n  {command('evaluate')} {run}\n  {command('predict')} {run} {setting('source', self.example)}"
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
    allow_leaks: bool = False,
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
        allow_leaks: train although files of one split are exact copies of another split's.
    """
    config = plain(describe(dict(locals())))
    with RunLog() as run_log, Drawer() as drawer, ExitStack() as stack:
        raise_open_file_limit()
        resumed = RunDir(Path(resume)) if resume else None
        loaded = load_data(data, seed=seed, manifest=read_manifest(resumed.splits) if resumed else None)
        splits = loaded.splits
        check_monitor(monitor, splits.class_names, splits.tables[VAL].targets, setting="monitor")
        correction = correct_imbalance(
            imbalance, sampler, class_counts=splits.counts(TRAIN), class_names=splits.class_names
        )
        log.info("%s\nimbalance: %s", loaded.words, correction.words)
        for line in preflight(loaded.index, loaded.copies, allow_leaks=allow_leaks):
            log.info("data check: %s", line)

        import torch

        from classifier_training.data.datamodule import ImageFolderDataModule, choose_num_workers
        from classifier_training.models.forward import fit_input
        from classifier_training.training.checkpoints import refuse_past
        from classifier_training.training.device import choose_device

        device = choose_device(trainer.accelerator, trainer.precision)
        log.info("device: %s", device.words)
        torch.manual_seed(seed)
        built = model(splits.num_classes)
        log.info("model: %s, %s", built.architecture, "trained weights" if built.pretrained else "random weights")
        image_size = data.image_size or built.input_spec.size
        min_batch_size = fit_input(built, image_size=image_size, batch_size=data.batch_size)
        preprocessing = transforms.evaluation(image_size, built.input_spec)
        stores = stack.enter_context(
            open_stores(
                splits,
                preprocessing=preprocessing,
                crop_scale=transforms.crop_scale,
                store=data.store,
                store_gb=data.store_gb,
            )
        )
        datamodule = ImageFolderDataModule(
            splits,
            preprocessing=preprocessing,
            augmentation=transforms,
            class_weights=correction.sampler_weights,
            batch_size=data.batch_size,
            num_workers=choose_num_workers(data.num_workers, accelerator=device.accelerator),
            on_error=data.on_error,
            seed=seed,
            stores=stores,
            on_device=device.accelerator != "cpu",
        )
        if resumed:
            refuse_past(resumed.last_checkpoint, max_epochs=trainer.max_epochs)
        run_dir = resumed or RunDir.create(Path(output), category=category, name=name)
        stack.enter_context(work_in(run_dir))
        run_dir.result.unlink(missing_ok=True)
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
        record_result(run_dir, scored, best_epoch)
    return TrainResult(run_dir, scored, best_epoch, example=table.paths[0])
