"""`train`: from data to a run folder.

`train` is the whole run; its larger steps are in `fit`. Modules that import torch or Lightning are imported when they
are needed, so that help and configuration errors come at once.
"""

from __future__ import annotations

import logging as python_logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from classifier_training.callbacks.observer import RunContext
from classifier_training.core.lock import locked
from classifier_training.core.register import Choice, describe, register
from classifier_training.core.run_dir import RunDir, remove_orphans
from classifier_training.core.runtime import RunLog, command, raise_open_file_limit, setting
from classifier_training.core.types import TEST, TRAIN, VAL, SplitResult, goal_of
from classifier_training.data.load import load_data
from classifier_training.data.preflight import preflight
from classifier_training.data.quality import imbalance_ratio
from classifier_training.data.source import DataSource
from classifier_training.data.splits import read_manifest
from classifier_training.data.store.plan import open_stores
from classifier_training.data.transforms import Transforms
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.metrics import check_monitor
from classifier_training.evaluation.results import Evaluation
from classifier_training.export.bundle import read_info
from classifier_training.training.decisions import Decisions, write_decisions
from classifier_training.training.imbalance import Switch, correct_imbalance
from classifier_training.training.settings import TrainerSettings
from classifier_training.training.transfer import Transfer, refuse_transfer
from classifier_training.workflows.advice import recipe_advice
from classifier_training.workflows.fit import Builder, fit, make_module, pace_of
from classifier_training.workflows.heads import PROBE, RETRAIN_HEAD, probe_head
from classifier_training.workflows.record import plain, record_inputs, record_result
from classifier_training.workflows.samples import unknown_labels
from classifier_training.workflows.scores import write_scores
from classifier_training.workflows.settle import settle
from classifier_training.workflows.start import Extend, find_origin, go_on, inherit, refuse_extend, tell_unfinished

log = python_logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Args:
        run_dir: where everything is.
        scored: answers of the best weights on the test split, or on validation where there is no test.
        evaluation: their figures.
        best_epoch: where the weights are from.
        example: one image of the scored split.
    """

    run_dir: RunDir
    scored: SplitResult
    evaluation: Evaluation
    best_epoch: int
    example: str

    def __str__(self) -> str:
        run = self.run_dir.path
        caution = "" if self.scored.split == TEST else " (there is no test split; these images chose the weights)"
        return (
            f"\n{self.evaluation}\nwith the weights of epoch {self.best_epoch}{caution}\n"
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
    optimizer: Annotated[partial[Any], Choice("adamw")],
    scheduler: Annotated[Builder, Choice("cosine")],
    transfer: Annotated[Transfer, Choice("full")],
    imbalance: Annotated[Switch, Choice("auto")],
    sampler: Annotated[Builder | None, Choice(None)] = None,
    callbacks: Annotated[Mapping[str, Any], Choice("default", many=True)],
    trainer: Annotated[TrainerSettings, Choice("default")],
    logging: Annotated[Mapping[str, Builder], Choice(None, many=True)],
    recipe: str = "auto",
    retrain_head: bool = False,
    monitor: str = "val/balanced_accuracy",
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    name: str | None = None,
    category: str | None = None,
    output: str = "outputs",
    resume: str | None = None,
    extend: Extend | None = None,
    init_from: str | None = None,
    allow_leaks: bool = False,
) -> TrainResult:
    """Train a classifier on a folder of images; without data.root, on a built-in sample.

    Args:
        recipe: the preset that the run follows; what is typed goes over it.
        retrain_head: fit the last layer again after training, with all classes alike, for long tails.
        monitor: metric that decides which weights are best.
        seed: everything random follows from it.
        name: puts the run under outputs/NAME/.
        category: puts the run under outputs/CATEGORY/.
        output: folder for run folders.
        resume: go on with this run (a folder, or latest for the newest unfinished one) and its configuration.
        extend: what the schedule does in a resumed run with more trainer.max_epochs: stretch keeps its shape over the
            new length (when left out), restart starts it again over the epochs to come, constant stays at the last
            learning rate.
        init_from: start from the weights of this run or bundle (a folder, latest or best), whose classes may be others.
        allow_leaks: train although files of one split are exact copies of another split's.
    """
    origin = find_origin(init_from, output=output, resumed=resume is not None)
    init_from = str(origin.path.absolute()) if origin else init_from
    config = plain(describe({name: value for name, value in locals().items() if name != "origin"}))
    with RunLog() as run_log, Drawer() as drawer, ExitStack() as stack:
        raise_open_file_limit()
        resumed = RunDir(Path(resume)) if resume else None
        if resumed is not None:
            # Before torch is imported: who finds the run taken is told so at once.
            stack.enter_context(locked(resumed))
            remove_orphans(resumed.path)
        else:
            refuse_extend(extend)
            tell_unfinished(config, output=output, category=category, name=name)
        loaded = load_data(
            data, seed=seed, manifest=read_manifest(resumed.splits) if resumed and resumed.splits.exists() else None
        )
        splits = loaded.splits
        check_monitor(monitor, splits.class_names, splits.tables[VAL].targets, setting="monitor")
        correction = correct_imbalance(
            imbalance, sampler, class_counts=splits.counts(TRAIN), class_names=splits.class_names
        )
        log.info("%s\nrecipe: %s\nimbalance: %s", loaded.words, recipe, correction.words)
        advice = recipe_advice(
            recipe, num_images=len(splits.tables[TRAIN]), ratio=imbalance_ratio(splits.counts(TRAIN))
        )
        if advice is not None:
            log.info("recipe: %s", advice)
        for line in preflight(loaded.index, loaded.copies, allow_leaks=allow_leaks):
            log.info("data check: %s", line)

        import torch

        from classifier_training.data.datamodule import ImageFolderDataModule, choose_num_workers
        from classifier_training.models.checkpointing import checkpointed_modules
        from classifier_training.models.forward import fit_input, fit_smaller
        from classifier_training.training.batch_size import DEFAULT_BATCH_SIZE
        from classifier_training.training.device import choose_device
        from classifier_training.training.features import linear_head
        from classifier_training.training.progressive import check_progressive

        device = choose_device(trainer.accelerator, trainer.precision)
        log.info("device: %s", device.words)
        torch.manual_seed(seed)
        built = model(splits.num_classes)
        log.info("model: %s, %s", built.architecture, "trained weights" if built.pretrained else "random weights")
        refuse_transfer(transfer, built, max_epochs=trainer.max_epochs)
        if transfer.probes or retrain_head:
            linear_head(built.network, setting=PROBE if transfer.probes else RETRAIN_HEAD)
        if trainer.gradient_checkpointing:
            checkpointed_modules(built.network)
        image_size = data.image_size or built.input_spec.size
        batch_size = DEFAULT_BATCH_SIZE if data.batch_size == "auto" else data.batch_size
        min_batch_size = fit_input(built, image_size=image_size, batch_size=batch_size)
        first_size = check_progressive(trainer.max_epochs, image_size=image_size, start_scale=transforms.start_scale)
        if first_size != image_size:
            min_batch_size = max(min_batch_size, fit_smaller(built, image_size=first_size, batch_size=batch_size))
        if origin:
            built = inherit(built, model, origin, splits.class_names)
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
            batch_size=batch_size,
            num_workers=choose_num_workers(data.num_workers, accelerator=device.accelerator),
            on_error=data.on_error,
            seed=seed,
            stores=stores,
            on_device=device.accelerator != "cpu",
        )
        decisions, checkpoint = Decisions(), None
        if resumed:
            decisions, checkpoint = go_on(resumed, config, trainer, extend)
            resumed.result.unlink(missing_ok=True)
            run_dir = resumed
        else:
            run_dir = RunDir.create(Path(output), category=category, name=name)
            stack.enter_context(locked(run_dir))
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
        make = partial(
            make_module,
            run,
            datamodule,
            loss=loss,
            scheduler=scheduler,
            correction=correction,
            seed=seed,
            min_batch_size=min_batch_size,
            phase=decisions.phase,
        )
        settled, decisions = settle(
            run, datamodule, make, trainer, optimizer, device, data.batch_size, min_batch_size, decisions,
            resumed=checkpoint is not None,
        )  # fmt: skip
        write_decisions(run_dir.decisions, decisions)
        trainer, device = settled.trainer, settled.device
        module = make(trainer, settled.optimizer, device)
        if settled.is_compiled:
            module.network.compile()
        pace = pace_of(datamodule, trainer, settled.optimizer, decisions.phase)
        if transfer.probes and checkpoint is None:
            probe_head(run, module, datamodule, device, correction.class_weights)
        best_epoch, scored = fit(
            run,
            module,
            datamodule,
            trainer,
            device,
            callbacks,
            logging,
            pace,
            transfer=transfer,
            retrains_head=retrain_head,
            checkpoint=checkpoint,
        )
        table = splits.tables[scored.split]
        evaluation = write_scores(
            run_dir.evaluation,
            scored,
            table,
            splits.class_names,
            drawer,
            calibration=read_info(run_dir).calibration if run_dir.model_info.exists() else None,
            source=run_dir.best_checkpoint.name,
            unknown_labels=unknown_labels(loaded.index.samples, scored.split, splits.class_names),
        )
        record_result(run_dir, scored, best_epoch)
    return TrainResult(run_dir, scored, evaluation, best_epoch, example=table.paths[0])
