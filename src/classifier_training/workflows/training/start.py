"""Where a run begins: anew, from the weights of another, or where it was left."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from classifier_training.conf.resume import MAX_TIME, changed_settings, keeps_exactness, saved_values
from classifier_training.core.errors import UserError
from classifier_training.core.register import describe
from classifier_training.core.room import Room, remove, size_bytes
from classifier_training.core.run_dir import days_folder
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import TEST, VAL, Weights
from classifier_training.registry.runs import ended, find_run, unfinished_like
from classifier_training.training.decisions import Decisions, Phase, read_decisions, write_decisions
from classifier_training.workflows.training.record import config_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from classifier_training.core.ranks import Follower
    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel
    from classifier_training.data.index import SplitData
    from classifier_training.training.checkpoint_files import Found
    from classifier_training.training.settings import TrainerSettings

log = logging.getLogger(__name__)

Extend = Literal["stretch", "restart", "constant"]


@dataclass(frozen=True)
class Start:
    """Where a run begins, or is taken up.

    Args:
        decisions: what it decided before, with the phase that it is in now.
        checkpoint: to train on from; None for the beginning.
        is_trained: whether no step is to come: only what follows training is left to do.
        found: that checkpoint with those beside it, for the process that leads.
    """

    decisions: Decisions = field(default_factory=Decisions)
    checkpoint: Path | None = None
    is_trained: bool = False
    found: Found | None = None


@contextmanager
def removed_when_refused(run_dir: RunDir) -> Iterator[None]:
    """Remove the folder of a new run that the block refuses to begin.

    Raises:
        UserError: then.
    """
    try:
        yield
    except UserError:
        remove(run_dir.path)
        raise


def room_of(network: nn.Module, splits: SplitData, run_dir: RunDir, *, is_new: bool) -> Room:
    """Return what a run is going to write.

    Args:
        network: of the run.
        splits: of its data; the held-out images are listed with the probability of each class, and mistakes twice.
        run_dir: of the run.
        is_new: whether nothing in its folder will be written over.
    """
    held_out = splits.tables.get(TEST, splits.tables[VAL])
    row_bytes = PATH_BYTES + PROBABILITY_BYTES * len(splits.class_names)
    return Room(
        output=run_dir.path.parent if is_new else run_dir.path,
        weights_bytes=4.0 * sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers())),
        table_bytes=2.0 * row_bytes * len(held_out),
        present_bytes=0.0 if is_new else size_bytes(run_dir.path),
    )


PATH_BYTES, PROBABILITY_BYTES = 150, 9
"""Of a row of predictions.csv."""


def find_origin(init_from: str | None, *, output: str, resumed: RunDir | None) -> RunDir | None:
    """Return the run to take weights from; a run that goes on from a checkpoint has them.

    Raises:
        UserError: when there is no such run.
    """
    if init_from is None or (resumed and resumed.resumable):
        return None
    try:
        return find_run(init_from, output=output)
    except UserError as error:
        said = [text.replace("run=", "init_from=") for text in (error.came, error.expected, error.remedy)]
        raise UserError(*said) from error


def only_start(model: Callable[..., BuiltModel], origin: RunDir) -> Callable[..., BuiltModel]:
    """Return what builds the network from random weights, for those of another run to take their place.

    Raises:
        UserError: when weights are asked for twice.
    """
    from classifier_training.models.weights import without_weights

    found = describe(model)
    asked = found if isinstance(found, dict) else {}
    if asked.get("pretrained") is True or asked.get("weights"):
        raise UserError(
            f"init_from={origin.path}, and weights asked for by model.pretrained or model.weights: two starts",
            "one of them",
            "leave out model.pretrained and model.weights",
        )
    return without_weights(model)


def inherit(
    built: BuiltModel, build: Callable[..., BuiltModel], origin: RunDir, class_names: Sequence[str]
) -> BuiltModel:
    """Give a new network the weights that a run keeps; see `inherit_weights` for the head.

    Raises:
        UserError: when the run's network is another one.
    """
    from classifier_training.models.head import class_axes
    from classifier_training.models.inherit import inherit_weights
    from classifier_training.models.weights import trained_state
    from classifier_training.workflows.evaluating.run_model import describe_trained

    info, weights = describe_trained(origin)
    if info.architecture != built.architecture:
        raise UserError(
            f"init_from={origin.path}: that run trained {info.architecture}, and this one trains {built.architecture}",
            "the same network",
            f"{_model_words(saved_values(origin.config))}, or leave out init_from",
        )
    words = inherit_weights(
        built.network,
        trained_state(weights),
        axes=class_axes(lambda number: build(number).network),
        own_classes=class_names,
        their_classes=info.class_names,
    )
    log.info("init_from: weights of %s; %s", origin.path, words)
    theirs = Weights.from_dict(info.training_info.get("weights"))
    found = Weights(info.architecture, f"run {origin.path}", theirs.license if theirs else None, has_head=True)
    return dataclasses.replace(built, weights=found)


def go_on(resumed: RunDir, config: Mapping[str, Any], trainer: TrainerSettings, extend: Extend | None) -> Start:
    """Find where a run was left, say what is otherwise in it now, and decide what becomes of its schedule.

    Nothing in its folder is changed before `take_up`.

    Args:
        resumed: the run.
        config: its configuration from now on.
        trainer: how long it trains from now on.
        extend: what the schedule does in a longer run; stretch when left out.

    Returns:
        Where it is taken up; at the beginning where nothing was saved yet.

    Raises:
        UserError: when `extend` has no effect, the run is past its new length, it is finished and its checkpoint is
            gone, or no checkpoint can be used.
    """
    from classifier_training.training.checkpoint_files import find_newest

    decisions = read_decisions(resumed.decisions)
    changes = changed_settings(saved_values(resumed.config), config)
    for key, before, now in changes:
        log.info("resume: %s: %s, before %s", key, now, before)
    inexact = [key for key, *_ in changes if not keeps_exactness(key)]
    newest = find_newest(resumed, at_epoch_end=bool(inexact))
    if newest is None and resumed.result.exists():
        raise ended(resumed)
    done = newest.entry.epochs_done if newest else 0
    if decisions.parts:
        if any(key == "trainer.max_epochs" for key, *_ in changes):
            log.info("resume: the run goes on for the epochs that were asked for, and no longer by time")
            decisions = dataclasses.replace(decisions, parts=())
        else:
            log.info("resume: by the plan that the run has: %d epochs", decisions.length(trainer.max_epochs))
            trainer = dataclasses.replace(trainer, max_epochs=decisions.length(trainer.max_epochs))
    if done > trainer.max_epochs:
        raise UserError(
            f"trainer.max_epochs={trainer.max_epochs}: the run has {done} epochs behind it",
            f"{done} epochs or more",
            f"trainer.max_epochs={done} to finish it as it is",
        )
    changed = [key for key, *_ in changes if key == MAX_TIME or not keeps_exactness(key)]
    is_trained = newest is not None and (
        (done == trainer.max_epochs and not newest.entry.is_mid_epoch) or (newest.entry.ends_training and not changed)
    )
    where = f"after step {newest.entry.step}, from {newest.path}" if newest else "at the beginning: nothing was saved"
    log.info("resume: the run goes on %s%s", where, "; its training has ended" if is_trained else "")
    planned = next((before for key, before, _ in changes if key == "trainer.max_epochs"), trainer.max_epochs)
    if extend is not None and trainer.max_epochs <= planned:
        raise UserError(
            f"extend={extend} has no effect: the run is planned for {planned} epochs",
            "a run that is made longer",
            f"trainer.max_epochs={planned + 10}, or leave out extend: a run that was made longer already goes on so",
        )
    if extend in ("restart", "constant"):
        phase = Phase(from_epoch=done, is_constant=extend == "constant")
        decisions = dataclasses.replace(decisions, phase=phase)
    if trainer.max_epochs != planned:
        log.info("extend=%s: %s", extend or "stretch", _schedule_words(decisions.phase, extend, trainer.max_epochs))
    if inexact:
        log.warning("from here on the run is not what it would have been without these changes: %s", ", ".join(inexact))
    return Start(decisions, newest.path if newest else None, is_trained, newest)


def take_up(resumed: RunDir, start: Start) -> None:
    """Write into a run's folder where it goes on from.

    Before config.yaml says the new length: a kill between the two must not lose what was asked for.
    """
    from classifier_training.training.checkpoint_files import go_on_from

    write_decisions(resumed.decisions, start.decisions)
    go_on_from(resumed, start.found, is_trained=start.is_trained)


def follow(run: RunDir, told: Follower) -> Start:
    """Return what the leader of this process has decided, and the checkpoint that it goes on from."""
    return Start(read_decisions(run.decisions), Path(told.checkpoint) if told.checkpoint else None)


def refuse_extend(extend: Extend | None) -> None:
    """Raise when a new run is told what to do with the schedule of an old one.

    Raises:
        UserError: then.
    """
    if extend is not None:
        raise UserError(
            f"extend={extend} has no effect: no run goes on",
            "a run to make longer",
            f"{command('train')} resume=RUN trainer.max_epochs=… extend={extend}",
        )


def tell_unfinished(config: Mapping[str, Any], *, output: str, category: str | None, name: str | None) -> None:
    """Say how to resume an unfinished run of the same configuration, if there is one. A new run starts anyway."""
    folder = days_folder(Path(output), category=category, name=name)
    found = unfinished_like(config_text(config), folder)
    if found is not None:
        log.info(
            "an unfinished run has the same settings; to resume it instead: %s %s",
            command("train"), setting("resume", found.path),
        )  # fmt: skip


def _schedule_words(phase: Phase, extend: Extend | None, max_epochs: int) -> str:
    if phase.is_constant:
        return f"the learning rate stays at its last value up to epoch {max_epochs}"
    if extend == "restart":
        return f"the schedule starts again, over the {max_epochs - phase.from_epoch} epochs to come"
    begin = f" that began after epoch {phase.from_epoch}" if phase.from_epoch else ""
    return f"the schedule{begin} keeps its shape over {max_epochs - phase.from_epoch} epochs"


def _model_words(config: Mapping[str, Any]) -> str:
    node = config.get("model")
    if not isinstance(node, dict):
        return "choose the model of that run"
    words = [setting("model", node.get("type"))]
    starts = ("type", "pretrained", "weights")
    words += [setting(f"model.{key}", value) for key, value in node.items() if key not in starts and value is not None]
    return " ".join(words)
