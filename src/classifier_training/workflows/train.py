"""`train`: from data to a run folder.

`train` is the whole run; its larger steps are in `inputs`, `network`, `pictures`, `fit_network` and `fit_shallow`.
Modules that import torch or Lightning are imported when they are needed, so that help and configuration errors come at
once.
"""

from __future__ import annotations

import logging as python_logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from classifier_training.callbacks.observer import RunContext
from classifier_training.core.locks import work_in
from classifier_training.core.ranks import following
from classifier_training.core.register import Choice, describe, register
from classifier_training.core.run_dir import RunDir, remove_orphans
from classifier_training.core.runtime import RunLog, command, raise_open_file_limit, setting
from classifier_training.core.types import TEST, SplitResult, SplitTable, goal_of
from classifier_training.data.source import DataSource
from classifier_training.data.transforms import Transforms
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.results import Evaluation
from classifier_training.export.bundle import read_info
from classifier_training.models.shallow.builders import ShallowModel
from classifier_training.training.decisions import Decisions
from classifier_training.training.distillation import Distillation
from classifier_training.training.imbalance import Switch
from classifier_training.training.settings import TrainerSettings
from classifier_training.training.transfer import Transfer
from classifier_training.workflows.documents import write_documents
from classifier_training.workflows.fit import Builder
from classifier_training.workflows.fit_network import Parts, fit_network
from classifier_training.workflows.fit_shallow import fit_shallow
from classifier_training.workflows.inputs import read_inputs
from classifier_training.workflows.network import build_network
from classifier_training.workflows.pictures import open_pictures
from classifier_training.workflows.record import plain, record_inputs, record_result
from classifier_training.workflows.samples import unknown_labels
from classifier_training.workflows.scores import write_scores
from classifier_training.workflows.start import Extend, find_origin, follow, go_on, refuse_extend, tell_unfinished
from classifier_training.workflows.teaching import name_teachers, uncompiled

log = python_logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Args:
        run_dir: where everything is.
        scored: answers of the best weights on the test split, or on validation where there is no test.
        evaluation: their figures.
        best_epoch: where the weights are from.
        table: the samples of the scored split.
    """

    run_dir: RunDir
    scored: SplitResult
    evaluation: Evaluation
    best_epoch: int
    table: SplitTable

    def __str__(self) -> str:
        run = self.run_dir.path
        caution = "" if self.scored.split == TEST else " (there is no test split; these images chose the weights)"
        return (
            f"\n{self.evaluation}\nwith the weights of epoch {self.best_epoch}{caution}\n"
            f"run folder: {run}\nreport: {self.run_dir.report}{self._next()}"
        )

    def _next(self) -> str:
        if not self.run_dir.model_info.exists():
            return "   (its model was not exported: callbacks.onnx_export is switched off)"
        run = setting("run", self.run_dir.path)
        source = setting("source", self.table.paths[0])
        return f"\n\nnext:\n  {command('evaluate')} {run}\n  {command('predict')} {run} {source}"


@register(group="verb", name="train")
def train(
    *,
    data: Annotated[DataSource, Choice("auto")],
    transforms: Annotated[Transforms, Choice("standard")],
    model: Annotated[Builder, Choice("auto")],
    loss: Annotated[Builder, Choice("cross_entropy")],
    optimizer: Annotated[partial[Any], Choice("adamw")],
    scheduler: Annotated[Builder, Choice("cosine")],
    transfer: Annotated[Transfer, Choice("full")],
    imbalance: Annotated[Switch, Choice("auto")],
    sampler: Annotated[Builder | None, Choice(None)] = None,
    distillation: Annotated[Distillation | None, Choice(None)] = None,
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
    resumed = RunDir(Path(resume)) if resume else None
    origin = find_origin(init_from, output=output, resumed=resumed)
    init_from = str(origin.path.absolute()) if origin else init_from
    distillation = name_teachers(distillation, output=output) if distillation else None
    config = plain(describe({name: value for name, value in locals().items() if name not in ("origin", "resumed")}))
    if isinstance(model, ShallowModel):
        transforms = transforms.without_augmentation()
    with RunLog() as run_log, Drawer() as drawer, ExitStack() as stack:
        raise_open_file_limit()
        follower = following()
        if resumed is not None and not follower:
            # Before torch is imported: who finds the run taken is told so at once.
            stack.enter_context(work_in(resumed))
            remove_orphans(resumed.path)
        elif not follower:
            refuse_extend(extend)
            tell_unfinished(config, output=output, category=category, name=name)
        inputs = read_inputs(
            data,
            imbalance,
            sampler,
            config=config,
            monitor=monitor,
            seed=seed,
            resumed=resumed,
            allow_leaks=allow_leaks,
        )
        loaded, correction = inputs.loaded, inputs.correction
        splits = loaded.splits

        from classifier_training.training.device import choose_device, sound_precision

        device = choose_device(trainer.accelerator, trainer.precision, trainer.num_devices)
        log.info("device: %s", device.words)
        if distillation:
            trainer = uncompiled(distillation, trainer)
        decisions, checkpoint = Decisions(), None
        if resumed:
            decisions, checkpoint = follow(resumed, follower) if follower else go_on(resumed, config, trainer, extend)
        network = build_network(
            model,
            splits.class_names,
            data=data,
            transforms=transforms,
            trainer=trainer,
            transfer=transfer,
            retrains_head=retrain_head,
            origin=origin,
            has_checkpoint=checkpoint is not None,
            started_from=decisions.weights,
            seed=seed,
        )
        decisions = replace(decisions, weights=network.built.weights)
        device = sound_precision(device, network.built.network, image_size=network.first_size, wanted=trainer.precision)
        datamodule = stack.enter_context(
            open_pictures(
                splits,
                network,
                data=data,
                transforms=transforms,
                class_weights=correction.sampler_weights,
                device=device,
                seed=seed,
            )
        )
        run_dir = resumed
        if run_dir is None:
            run_dir = RunDir.create(Path(output), category=category, name=name)
            stack.enter_context(work_in(run_dir))
        if not follower:
            run_dir.result.unlink(missing_ok=True)
            run_log.open(run_dir.log)
            record_inputs(run_dir, config, loaded.index)
        run = RunContext(
            run_dir=run_dir,
            config=config,
            class_names=splits.class_names,
            tables=splits.tables,
            statistics={**loaded.statistics, "checks": inputs.checks},
            image_sizes=loaded.image_sizes,
            draws=lambda epoch: datamodule.sampler.draws(epoch, splits.num_classes),
            model=network.built,
            preprocessing=datamodule.preprocessing,
            monitor=monitor,
            monitor_mode=goal_of(monitor),
            max_epochs=trainer.max_epochs,
            num_trainable=network.num_trainable,
            drawer=drawer,
        )
        if isinstance(model, ShallowModel):
            best_epoch, scored = fit_shallow(
                run, model, datamodule, callbacks, logging, correction, data=data, seed=seed
            )
        else:
            parts = Parts(
                loss,
                optimizer,
                scheduler,
                transfer,
                trainer,
                data.batch_size,
                correction,
                retrain_head,
                seed,
                distillation,
            )
            best_epoch, scored = fit_network(
                run, network, datamodule, parts, device, callbacks, logging, decisions, checkpoint=checkpoint
            )
        table = splits.tables[scored.split]
        calibration = read_info(run_dir).calibration if run_dir.model_info.exists() else None
        evaluation = write_scores(
            run_dir.evaluation,
            scored,
            table,
            splits.class_names,
            drawer,
            calibration=calibration,
            source=(run_dir.weights if isinstance(model, ShallowModel) else run_dir.best_checkpoint).name,
            unknown_labels=unknown_labels(loaded.index.samples, scored.split, splits.class_names),
        )
        record_result(run_dir, scored, best_epoch)
        drawer.wait()
        write_documents(run_dir, scored, table, splits.class_names, evaluation, calibration=calibration)
    return TrainResult(run_dir, scored, evaluation, best_epoch, table)
