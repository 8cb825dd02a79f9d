"""The settings of `train`: the signature of a run, from which come its help, its checks and its config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cached_property, partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from classifier_training.core.register import Choice, Word, describe
from classifier_training.core.secrets import mask
from classifier_training.core.settings import Alias, Duration, Fit, Often, Resume, RunText, Trait, TypedPath, with_unit
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.formats.source import DataSource
from classifier_training.evaluation.verdict import NO_TARGETS, Targets
from classifier_training.models.prune import Pruning
from classifier_training.training.imbalance import Switch
from classifier_training.training.losses import Distillation
from classifier_training.training.settings import (
    LoggerBuilder,
    LossBuilder,
    ModelBuilder,
    SamplerBuilder,
    SchedulerBuilder,
    TrainerSettings,
)
from classifier_training.training.transfer import Transfer
from classifier_training.workflows.many_runs.launch.base import Launcher
from classifier_training.workflows.many_runs.launch.local import LOCAL

Extend = Literal["stretch", "restart", "constant"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of `train`.

    Args:
        recipe: the preset that the run follows, which changes defaults such as epochs and lr; settings on the command
            line override it.
        time: how long the whole command may take: 90s, 10m, 1h30m. The run trains as many epochs as fit by measured
            speed, at most trainer.max_epochs, and its learning-rate schedule comes to its end.
        retrain_head: fit the last layer again after training, with all classes alike, for long tails.
        monitor: metric that decides which weights are best.
        seed: everything random follows from it.
        name: puts the run under outputs/NAME/; auto takes the name of the data set.
        category: puts the run under outputs/CATEGORY/.
        output: folder for run folders.
        resume: resume this run (a folder, or latest for the newest unfinished one) and its configuration.
        extend: what the schedule does in a resumed run with more trainer.max_epochs: stretch keeps its shape over the
            new length (when left out), restart starts it again over the epochs to come, constant stays at the last
            learning rate.
        init_from: start from the weights of this run or bundle (a folder, latest or best), whose classes may be others.
        replay: share of an epoch's images that are old ones: with init_from=RUN and new images in data.root, the run is
            trained again. Its images keep their splits, its classes their places, and new classes are added.
        promote: give the finished run the alias production if it passes the gate of registry promote; a run that was
            trained again is compared with the run before on the held-out images of both. Exit code 1 where it is not.
        allow_leaks: train although files of one split are exact copies of another split's.
    """

    data: Annotated[DataSource, Choice("auto"), Word("root"), Fit.ANY]
    transforms: Annotated[Transforms, Choice("standard"), Fit.EPOCHS]
    model: Annotated[ModelBuilder, Choice("auto"), Often(2), Resume.FIXED, Fit.ANY]
    loss: Annotated[LossBuilder, Choice("cross_entropy"), Resume.DIVERGES, Fit.EPOCHS]
    optimizer: Annotated[partial[Any], Choice("adamw"), Resume.DIVERGES, Fit.EPOCHS]
    scheduler: Annotated[SchedulerBuilder, Choice("cosine"), Resume.FIXED, Fit.EPOCHS]
    transfer: Annotated[Transfer, Choice("auto"), Resume.FIXED, Fit.EPOCHS]
    imbalance: Annotated[Switch, Choice("auto"), Resume.FIXED, Fit.ANY]
    sampler: Annotated[SamplerBuilder | None, Choice(None), Resume.FIXED, Fit.ANY] = None
    distillation: Annotated[Distillation | None, Choice(None), Resume.FIXED, Fit.EPOCHS] = None
    pruning: Annotated[Pruning | None, Choice(None), Resume.FIXED, Fit.EPOCHS] = None
    callbacks: Annotated[Mapping[str, Any], Choice("default", many=True), Resume.FIXED, Fit.EPOCHS]
    trainer: Annotated[TrainerSettings, Choice("default"), Fit.EPOCHS]
    logging: Annotated[Mapping[str, LoggerBuilder], Choice(None, many=True), Resume.EXACT, Fit.ANY, Trait.MACHINE]
    target: Annotated[Targets, Choice("default", group="evaluation_target"), Resume.EXACT, Fit.ANY] = NO_TARGETS
    recipe: Annotated[str, Often(8), Resume.FIXED, Fit.EPOCHS, Trait.PRESET] = "auto"
    time: Annotated[
        Duration | None, BeforeValidator(with_unit), Often(4), Resume.FIXED, Fit.EPOCHS, Alias("time_limit")
    ] = None
    retrain_head: Annotated[bool, Resume.FIXED, Fit.EPOCHS] = False
    monitor: Annotated[str, Resume.FIXED, Fit.ANY] = "val/balanced_accuracy"
    seed: Annotated[int, Field(ge=0, lt=2**63), Resume.FIXED, Fit.ANY, Trait.SEED] = 0
    name: Annotated[str | None, Resume.FIXED, Fit.ANY, Trait.PLACE] = None
    category: Annotated[str | None, Resume.FIXED, Fit.ANY, Trait.PLACE] = None
    output: Annotated[TypedPath, Often(9), Resume.FIXED, Fit.ANY, Trait.PLACE] = "outputs"
    resume: Annotated[RunText | None, Often(10), Resume.FIXED, Fit.EPOCHS, Trait.START] = None
    extend: Annotated[Extend | None, Resume.DIVERGES, Fit.EPOCHS, Trait.START] = None
    init_from: Annotated[RunText | None, Resume.FIXED, Fit.EPOCHS] = None
    replay: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, Resume.FIXED, Fit.EPOCHS] = None
    promote: Annotated[bool, Resume.EXACT, Fit.ANY, Trait.PROMOTES] = False
    allow_leaks: Annotated[bool, Resume.FIXED, Fit.ANY] = False
    launcher: Annotated[Launcher, Choice("local"), Resume.EXACT, Fit.ANY, Trait.START] = LOCAL

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings as plain values, without secrets, as config.yaml keeps them."""
        # A run is the same wherever it is started from.
        values = {field.name: describe(getattr(self, field.name)) for field in fields(self) if field.name != "launcher"}
        config: dict[str, Any] = plain(values)
        return config


def plain(value: Any) -> Any:
    """Turn values of settings into those that YAML and JSON have, without secrets."""
    return mask(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.total_seconds() if isinstance(value, timedelta) else value
