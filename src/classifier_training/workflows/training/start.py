"""Where a run begins: anew, from the weights of another run, or where it was interrupted."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.callbacks.lightning import without_checkpoint
from classifier_training.conf.resume import changed_settings, keeps_exactness, on_resume, saved_values
from classifier_training.core.errors import UserError
from classifier_training.core.processes import process_rank, work_in
from classifier_training.core.register import TYPE_KEY, describe
from classifier_training.core.run_dir import RunDir, remove_orphans
from classifier_training.core.runtime import Clock, RunLog, command, raise_open_file_limit
from classifier_training.core.settings import Resume
from classifier_training.evaluation.drawing import Drawer
from classifier_training.models.shallow import ShallowModel
from classifier_training.registry.runs import ended, find_run
from classifier_training.training.decisions import Decisions, Phase, read_decisions, write_decisions
from classifier_training.training.loggers import refuse_unreachable
from classifier_training.workflows.training.teaching import name_teachers
from classifier_training.workflows.training.unfinished import tell_unfinished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from classifier_training.callbacks.observer import Observer
    from classifier_training.training.checkpoint_files import Found
    from classifier_training.training.settings import TrainerSettings
    from classifier_training.workflows.training.settings import Extend, TrainSettings
    from classifier_training.workflows.training.team import Team

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A run that has begun: nothing of it is read, built or written yet.

    Args:
        settings: with the folders of other runs in place of latest and relative paths.
        config: of the run, as config.yaml keeps it.
        observers: that see the run besides those of its configuration.
        resumed: the run that is resumed, if one is.
        origin: the run whose weights this one starts from, if any.
        team: the processes that train together, if there are several.
        stack: closes at the end of the run what it has opened.
        run_log: writes train.log.
        drawer: paints plots in the background.
        clock: takes the time of the run's parts.
    """

    settings: TrainSettings
    config: Mapping[str, Any]
    observers: Sequence[Observer]
    resumed: RunDir | None
    origin: RunDir | None
    team: Team | None
    stack: ExitStack
    run_log: RunLog
    drawer: Drawer
    clock: Clock

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes: the only one, or rank 0 of several."""
        return self.team is None or self.team.leads


def begin(settings: TrainSettings, observers: Sequence[Observer], stack: ExitStack) -> Begun:
    """Find the runs that the settings name, and take the one to resume.

    Args:
        settings: as given.
        observers: that see the run besides those of its configuration.
        stack: closes at the end of the run what it has opened.

    Raises:
        UserError: when a run is not there, or another process has it.
    """
    clock = Clock()
    settings = dataclasses.replace(settings, data=settings.data.pinned())
    leads, team = process_rank().leads, None
    if not process_rank().is_alone:
        from classifier_training.workflows.training.team import Team

        team = stack.enter_context(Team(process_rank()))
        team.check(settings)
        settings = settings if leads else team.follow()
    if leads:
        refuse_unavailable(settings)
    resumed = RunDir(Path(settings.resume)) if settings.resume else None
    origin = find_origin(settings.init_from, output=settings.output, resumed=resumed)
    if origin:
        settings = dataclasses.replace(settings, init_from=str(origin.path.absolute()))
    if settings.distillation:
        named = name_teachers(settings.distillation, output=settings.output)
        settings = dataclasses.replace(settings, distillation=named)
    config = settings.config
    if isinstance(settings.model, ShallowModel):
        settings = dataclasses.replace(settings, transforms=settings.transforms.without_augmentation())
    run_log, drawer = stack.enter_context(RunLog()), stack.enter_context(Drawer())
    raise_open_file_limit()
    if resumed is not None and leads:
        # Before torch is imported: a run that is taken is refused at once.
        stack.enter_context(work_in(resumed))
        remove_orphans(resumed.path)
    elif leads:
        refuse_extend(settings.extend)
        tell_unfinished(settings)
    return Begun(
        settings=settings, config=config, observers=observers, resumed=resumed, origin=origin, team=team,
        stack=stack, run_log=run_log, drawer=drawer, clock=clock,
    )  # fmt: skip


def refuse_unavailable(settings: TrainSettings) -> None:
    """Raise when something that was asked for cannot be had, before the data are read and a folder is made.

    Packages of optional extras are looked for earlier, when the settings are checked.

    Raises:
        UserError: for a device or a logger that is not to be had, and when nothing would keep what is trained.
    """
    if settings.trainer.accelerator not in ("auto", "cpu"):
        from classifier_training.training.device import find_accelerator

        find_accelerator(settings.trainer.accelerator)
    chosen = {describe(item)[TYPE_KEY] for item in settings.callbacks.values()}
    if not process_rank().is_alone:
        refuse_several(settings, process_rank().num_ranks)
    if isinstance(settings.model, ShallowModel):
        if "onnx_export" not in chosen:
            raise UserError(
                "callbacks.onnx_export is switched off",
                "the callback that writes model.onnx and model.safetensors, which alone keep a "
                f"{describe(settings.model)[TYPE_KEY]}",
                "leave callbacks= out, or name onnx_export among them",
            )
    elif "checkpoint" not in chosen:
        raise without_checkpoint()
    refuse_unreachable(settings.logging, RunDir(Path(settings.resume)) if settings.resume else None)


def refuse_several(settings: TrainSettings, number: int) -> None:
    """Raise when several processes cannot train a run together, or a batch has no image for each of them.

    Raises:
        UserError: then.
    """
    what = ""
    if settings.distillation:
        what = f"distillation with trainer.num_devices={number}: teachers serve one process alone"
    elif isinstance(settings.model, ShallowModel):
        what = f"trainer.num_devices={number}: {describe(settings.model)[TYPE_KEY]} is fitted at once, by one process"
    if what:
        raise UserError(what, "one process", "trainer.num_devices=1")
    size = settings.data.batch_size
    if isinstance(size, int) and size < number:
        raise UserError(
            f"data.batch_size={size}: of the {size} images of a batch a process would have 0, as there are {number}",
            "an image a process, or more",
            f"data.batch_size={8 * number}, or fewer processes",
        )


@dataclass(frozen=True)
class Start:
    """Where a run begins, or is resumed.

    Args:
        decisions: what it decided before, with the phase that it is in now.
        checkpoint: to train on from; None for the beginning.
        epochs_done: epochs that are behind that checkpoint.
        is_trained: whether no step is to come: only what follows training is left to do.
        found: that checkpoint with those beside it, for the process that leads.
    """

    decisions: Decisions = field(default_factory=Decisions)
    checkpoint: Path | None = None
    epochs_done: int = 0
    is_trained: bool = False
    found: Found | None = None


def find_start(begun: Begun, trainer: TrainerSettings) -> Start:
    """Return where a run starts: at the beginning, or for one that is resumed, at its newest checkpoint.

    Args:
        begun: the run.
        trainer: how long it trains from now on.

    Raises:
        UserError: when it cannot be resumed so; see `find_resumed`.
    """
    if begun.resumed is None:
        return Start()
    if begun.team is None or begun.team.leads:
        return find_resumed(begun.resumed, begun.config, trainer, begun.settings.extend)
    return Start(read_decisions(begun.resumed.decisions), begun.team.checkpoint, begun.team.epochs_done)


def find_origin(init_from: str | None, *, output: str, resumed: RunDir | None) -> RunDir | None:
    """Return the run to take weights from; a run that is resumed from a checkpoint has them.

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


def find_resumed(resumed: RunDir, config: Mapping[str, Any], trainer: TrainerSettings, extend: Extend | None) -> Start:
    """Find where a run was interrupted, say what has changed in it, and decide what becomes of its schedule.

    Nothing in its folder is changed before `write_start`.

    Args:
        resumed: the run.
        config: its configuration from now on.
        trainer: how long it trains from now on.
        extend: what the schedule does in a longer run; stretch when left out.

    Returns:
        Where it is resumed; at the beginning where nothing was saved yet.

    Raises:
        UserError: when `extend` has no effect, the run is past its new length, it is finished and its checkpoint is
            gone, or no checkpoint can be used.
    """
    from classifier_training.training.checkpoint_files import find_newest

    decisions = read_decisions(resumed.decisions)
    changes = changed_settings(saved_values(resumed.config), config)
    for key, before, now in changes:
        log.info("resume: %s: %s, before %s", key, now, "not set" if before is None else before)
    inexact = [key for key, *_ in changes if not keeps_exactness(key)]
    newest = find_newest(resumed, at_epoch_end=bool(inexact))
    if newest is None and resumed.result.exists():
        raise ended(resumed)
    done = newest.entry.epochs_done if newest else 0
    if decisions.parts:
        if any(key == "trainer.max_epochs" for key, *_ in changes):
            log.info("resume: the run trains the epochs that were asked for, and no longer by time")
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
    changed = [key for key, *_ in changes if on_resume(key) is not Resume.EXACT]
    is_asked_to_stop = resumed.stop_request.exists()
    is_trained = newest is not None and (
        (done == trainer.max_epochs and not newest.entry.is_mid_epoch)
        or (newest.entry.ends_training and not changed)
        or (is_asked_to_stop and done > 0 and not newest.entry.is_mid_epoch and not changed)
    )
    if is_asked_to_stop and not is_trained:
        log.warning("%s: training ends after its next epoch; without this file it goes on", resumed.stop_request)
    where = f"after step {newest.entry.step}, from {newest.path}" if newest else "at the beginning: nothing was saved"
    log.info("resume: training continues %s%s", where, "; its training has ended" if is_trained else "")
    planned = next((before for key, before, _ in changes if key == "trainer.max_epochs"), trainer.max_epochs)
    if extend is not None and trainer.max_epochs <= planned:
        raise UserError(
            f"extend={extend} has no effect: the run is planned for {planned} epochs",
            "a run that is made longer",
            f"trainer.max_epochs={planned + 10}, or leave out extend: a run that was made longer already continues so",
        )
    if extend in ("restart", "constant"):
        phase = Phase(from_epoch=done, is_constant=extend == "constant")
        decisions = dataclasses.replace(decisions, phase=phase)
    if trainer.max_epochs != planned:
        log.info("extend=%s: %s", extend or "stretch", _schedule_words(decisions.phase, extend, trainer.max_epochs))
    if inexact:
        log.warning("from here on the run is not what it would have been without these changes: %s", ", ".join(inexact))
    return Start(decisions, newest.path if newest else None, done, is_trained, newest)


def write_start(resumed: RunDir, start: Start) -> None:
    """Write into a run's folder where it is resumed.

    Before config.yaml says the new length: a kill between the two must not lose what was asked for.
    """
    from classifier_training.training.checkpoint_files import resume_from

    write_decisions(resumed.decisions, start.decisions)
    resume_from(resumed, start.found, is_trained=start.is_trained)


def refuse_extend(extend: Extend | None) -> None:
    """Raise when a new run is given an extend=.

    Raises:
        UserError: then.
    """
    if extend is not None:
        raise UserError(
            f"extend={extend} has no effect: no run is resumed",
            "a run to make longer",
            f"{command('train')} resume=RUN trainer.max_epochs=… extend={extend}",
        )


def config_text(config: Mapping[str, Any]) -> str:
    """Return what config.yaml holds."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _schedule_words(phase: Phase, extend: Extend | None, max_epochs: int) -> str:
    if phase.is_constant:
        return f"the learning rate stays at its last value up to epoch {max_epochs}"
    if extend == "restart":
        return f"the schedule starts again, over the {max_epochs - phase.from_epoch} epochs to come"
    begin = f" that began after epoch {phase.from_epoch}" if phase.from_epoch else ""
    return f"the schedule{begin} keeps its shape over {max_epochs - phase.from_epoch} epochs"
