"""`train`: from data to a run folder.

`train` is the whole run; its larger steps are in `inputs`, `network`, `images`, `fit_network`, `fit_shallow` and
`end`.
Modules that import torch or Lightning are imported when they are needed, so that help and configuration errors come at
once.
"""

from __future__ import annotations

import logging as python_logging
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from classifier_training.callbacks.observer import RunContext
from classifier_training.core.locks import work_in
from classifier_training.core.metrics import goal_of
from classifier_training.core.ranks import following
from classifier_training.core.register import Choice, describe, register
from classifier_training.core.room import size_bytes
from classifier_training.core.run_dir import RunDir, remove_orphans
from classifier_training.core.runtime import Clock, RunLog, command, raise_open_file_limit, setting
from classifier_training.core.settings import Duration
from classifier_training.core.types import TEST, SplitResult, SplitTable, epoch_name
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.formats.source import DataSource
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.results import Evaluation
from classifier_training.models.shallow.builders import ShallowModel
from classifier_training.training.distillation import Distillation
from classifier_training.training.imbalance import Switch
from classifier_training.training.settings import TrainerSettings
from classifier_training.training.transfer import Transfer
from classifier_training.workflows.training.end import Ended, finish_run
from classifier_training.workflows.training.fit import Builder
from classifier_training.workflows.training.fit_network import Parts, fit_network
from classifier_training.workflows.training.fit_shallow import fit_shallow
from classifier_training.workflows.training.inputs import open_pictures, read_inputs
from classifier_training.workflows.training.network import build_network
from classifier_training.workflows.training.record import plain, record_inputs
from classifier_training.workflows.training.start import (
    Extend,
    Start,
    find_origin,
    follow,
    go_on,
    refuse_extend,
    removed_when_refused,
    room_of,
    take_up,
    tell_unfinished,
)
from classifier_training.workflows.training.teaching import name_teachers, uncompiled

log = python_logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Args:
        run_dir: where everything is.
        ended: answers of the best weights on the test split, or on validation where there is no test, with their
            metrics, and what could not be done.
        best_epoch: where the weights are from.
        share: of that epoch's weights in a mean with those before the first one.
        table: the samples of the scored split.
    """

    run_dir: RunDir
    ended: Ended
    best_epoch: int
    share: float
    table: SplitTable

    @property
    def scored(self) -> SplitResult:
        """Answers on the scored split."""
        return self.ended.scored

    @property
    def evaluation(self) -> Evaluation:
        """Metrics of these answers."""
        return self.ended.evaluation

    @property
    def exit_code(self) -> int:
        """0, or 1 where something failed after training; the run is finished all the same."""
        return int(bool(self.ended.failures))

    def __str__(self) -> str:
        caution = "" if self.scored.split == TEST else " (there is no test split; these images chose the weights)"
        lines = [
            "",
            str(self.ended.evaluation),
            f"with the weights of {epoch_name(self.best_epoch, self.share)}{caution}",
            *(f"FAILED: {name}: {reason}" for name, reason in self.ended.failures.items()),
            *folder_words(self.run_dir),
        ]
        return "\n".join(lines) + self._next()

    def _next(self) -> str:
        if not self.run_dir.model_info.exists():
            return "\n(its model was not exported: callbacks.onnx_export is switched off)"
        run = setting("run", self.run_dir.path)
        source = setting("source", self.table.paths[0])
        return f"\n\nnext:\n  {command('evaluate')} {run}\n  {command('predict')} {run} {source}"


def folder_words(run_dir: RunDir) -> list[str]:
    """Say where a finished run is, how large it is, and which of its files predict needs."""
    needed = (run_dir.onnx, run_dir.model_info, run_dir.labels_mapping)
    kept = [path for path in (run_dir.last_checkpoint, run_dir.probe_checkpoint) if path.exists()]
    names = " and ".join(path.name for path in kept)
    longer = f"; {sum(map(size_bytes, kept)) / 1e6:,.1f} MB of them are {names}, to train it longer" if kept else ""
    lines = [
        f"run folder: {run_dir.path}   ({size_bytes(run_dir.path) / 1e6:,.1f} MB{longer})",
        f"report: {run_dir.report}",
    ]
    if all(path.exists() for path in needed):
        names = ", ".join(path.name for path in needed)
        lines.append(f"to share: {names} ({sum(map(size_bytes, needed)) / 1e6:,.1f} MB) are all that predict needs")
    return lines


@register(group="verb", name="train")
def train(
    *,
    data: Annotated[DataSource, Choice("auto")],
    transforms: Annotated[Transforms, Choice("standard")],
    model: Annotated[Builder, Choice("auto")],
    loss: Annotated[Builder, Choice("cross_entropy")],
    optimizer: Annotated[partial[Any], Choice("adamw")],
    scheduler: Annotated[Builder, Choice("cosine")],
    transfer: Annotated[Transfer, Choice("auto")],
    imbalance: Annotated[Switch, Choice("auto")],
    sampler: Annotated[Builder | None, Choice(None)] = None,
    distillation: Annotated[Distillation | None, Choice(None)] = None,
    callbacks: Annotated[Mapping[str, Any], Choice("default", many=True)],
    trainer: Annotated[TrainerSettings, Choice("default")],
    logging: Annotated[Mapping[str, Builder], Choice(None, many=True)],
    recipe: str = "auto",
    time: Duration | None = None,
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
        recipe: the preset that the run follows; settings on the command line override it.
        time: how long the whole command may take: 90s, 10m, 1h30m. The run trains as many epochs as fit by measured
            speed, at most trainer.max_epochs, and its learning-rate schedule comes to its end.
        retrain_head: fit the last layer again after training, with all classes alike, for long tails.
        monitor: metric that decides which weights are best.
        seed: everything random follows from it.
        name: puts the run under outputs/NAME/.
        category: puts the run under outputs/CATEGORY/.
        output: folder for run folders.
        resume: resume this run (a folder, or latest for the newest unfinished one) and its configuration.
        extend: what the schedule does in a resumed run with more trainer.max_epochs: stretch keeps its shape over the
            new length (when left out), restart starts it again over the epochs to come, constant stays at the last
            learning rate.
        init_from: start from the weights of this run or bundle (a folder, latest or best), whose classes may be others.
        allow_leaks: train although files of one split are exact copies of another split's.
    """
    clock = Clock()
    resumed = RunDir(Path(resume)) if resume else None
    origin = find_origin(init_from, output=output, resumed=resumed)
    init_from = str(origin.path.absolute()) if origin else init_from
    distillation = name_teachers(distillation, output=output) if distillation else None
    config = plain(
        describe({name: value for name, value in locals().items() if name not in ("clock", "origin", "resumed")})
    )
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
            max_value=transforms.max_value,
        )
        loaded, correction = inputs.loaded, inputs.correction
        splits = loaded.splits

        from classifier_training.training.device import choose_device, sound_precision

        device = choose_device(trainer.accelerator, trainer.precision, trainer.num_devices)
        log.info("device: %s", device.words)
        if distillation:
            trainer = uncompiled(distillation, trainer)
        start = Start()
        if resumed:
            start = follow(resumed, follower) if follower else go_on(resumed, config, trainer, extend)
            trainer = replace(trainer, max_epochs=start.decisions.length(trainer.max_epochs))
        network = build_network(
            model,
            splits.class_names,
            loaded.training_sizes,
            data=data,
            transforms=transforms,
            trainer=trainer,
            transfer=transfer,
            retrains_head=retrain_head,
            origin=origin,
            start=start,
            seed=seed,
        )
        decided_size = network.image_size if data.named_size is None else None
        decisions = replace(start.decisions, image_size=decided_size, weights=network.built.weights)
        start = replace(start, decisions=decisions)
        device = sound_precision(device, network.built.network, image_size=network.first_size, wanted=trainer.precision)
        run_dir = resumed or RunDir.create(Path(output), category=category, name=name)
        if resumed is None:
            stack.enter_context(work_in(run_dir))
            run_log.open(run_dir.log)
            # Before a store is filled: whoever is killed at that can have the run resumed.
            record_inputs(run_dir, config, loaded.index)
        with nullcontext() if resumed else removed_when_refused(run_dir):
            datamodule = stack.enter_context(
                open_pictures(
                    splits,
                    network,
                    data=data,
                    transforms=transforms,
                    class_weights=correction.sampler_weights,
                    device=device,
                    seed=seed,
                    room=None if follower else room_of(network.built.network, splits, run_dir, is_new=resumed is None),
                )
            )
        if resumed and not follower:
            take_up(resumed, start)
            resumed.result.unlink(missing_ok=True)
            run_log.open(resumed.log)
            record_inputs(resumed, config, loaded.index)
        run = RunContext(
            run_dir=run_dir,
            config=config,
            class_names=splits.class_names,
            tables=splits.tables,
            statistics={**loaded.statistics, "checks": inputs.checks},
            image_sizes=loaded.image_sizes,
            draws=lambda epoch: datamodule.sampler.draws(
                epoch, splits.num_classes, num_images=sum(datamodule.train_batch_sizes)
            ),
            model=network.built,
            preprocessing=datamodule.preprocessing,
            monitor=monitor,
            monitor_mode=goal_of(monitor),
            max_epochs=trainer.max_epochs,
            num_trainable=network.num_trainable,
            drawer=drawer,
            clock=clock,
        )
        if isinstance(model, ShallowModel):
            trained = fit_shallow(run, model, datamodule, callbacks, logging, correction, data=data, seed=seed)
        else:
            parts = Parts(
                loss,
                optimizer,
                scheduler,
                network.transfer,
                trainer,
                data.batch_size,
                correction,
                retrain_head,
                seed,
                distillation,
                time,
            )
            trained = fit_network(run, network, datamodule, parts, device, callbacks, logging, start)
        ended = finish_run(trained, loaded.index.samples)
    return TrainResult(run_dir, ended, trained.end.best_epoch, trained.end.share, splits.tables[ended.scored.split])
