"""`tune`: a search for the best settings of one model on one data set, with Optuna."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from classifier_training.conf.compose import compose, compose_values
from classifier_training.conf.overrides import parse_overrides, typed_value, value_at, word
from classifier_training.conf.recipes import data_label, model_label
from classifier_training.conf.searches import family_of
from classifier_training.conf.tuned import experiment_name, places_of, save_experiment, without_tuned
from classifier_training.core.errors import InterruptedRunError, UserError, plural
from classifier_training.core.metrics import goal_of
from classifier_training.core.register import TYPE_KEY, Choice, SettingsOf, entry, register
from classifier_training.core.run_dir import make_folder
from classifier_training.core.runtime import command, quiet_screen, setting
from classifier_training.core.settings import Duration, Trait, TypedPath
from classifier_training.workflows.many_runs.candidates import AGAIN, refuse_own
from classifier_training.workflows.many_runs.jobs import run_jobs
from classifier_training.workflows.many_runs.launch.base import JobSpec, Launcher
from classifier_training.workflows.many_runs.launch.local import LOCAL
from classifier_training.workflows.many_runs.tuning_report import StudySummary, summarize, write_study
from classifier_training.workflows.many_runs.tuning_study import (
    EPOCHS,
    ERROR,
    LOST,
    LOST_SECONDS,
    OWNER,
    SECONDS,
    Plan,
    Pruner,
    Sampler,
    TakenError,
    close_lost_trials,
    counted,
    import_optuna,
    is_waiting,
    make_sampler,
    open_study,
    original_number,
    owner,
    retry,
    suggest,
    without_password,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna import Study, Trial

    from classifier_training.conf.searches import Parameter

log = logging.getLogger(__name__)

PASSWORD_VARIABLE = "PGPASSWORD"  # noqa: S105 - its name
"""From which PostgreSQL's library takes a password."""

WAIT_SECONDS = 1.0
"""Time between two looks at the trials of other processes, at the end."""

MAX_FAILURES = 3
"""Trials that may fail while none has succeeded."""


@dataclass(frozen=True)
class TuneResult:
    """Result of `tune`.

    Args:
        name: of the experiment.
        experiment: its file.
        summary: of the study.
        folder: of the study's files.
        words: further settings of `train`, besides the experiment.
    """

    name: str
    experiment: Path
    summary: StudySummary
    folder: Path
    words: Sequence[str]

    def __str__(self) -> str:
        found = self.summary
        states = ", ".join(f"{number} {state}" for state, number in found.num_trials.items())
        lines = [
            "",
            f"best of {sum(found.num_trials.values())} trials ({states}): trial {found.best.number}, "
            f"score {found.best.values[0]:.4f}"
            + (f", {found.best.values[1]:.2f} ms" if len(found.best.values) > 1 else ""),
            *(f"  {key}={value}" for key, value in found.best.params.items()),
            "the best of several scores on the same validation images is too good; a run's test split tells",
            f"epochs: {found.num_epochs} of {found.num_epochs_whole} without pruning ({found.saved:.0%} saved)",
        ]
        if len(found.best.values) > 1:
            lines.append("Pareto front of score and latency:")
            lines += [f"  trial {one.number}: {one.values[0]:.4f}, {one.values[1]:.2f} ms" for one in found.front]
        lines += [
            f"plots and trials.csv: {self.folder}",
            f"experiment: {self.experiment}",
            "",
            f"next:\n  {command('train')} {setting('experiment', self.name)} {' '.join(self.words)}".rstrip(),
        ]
        return "\n".join(lines)


@register(
    group="verb",
    name="tune",
    extra="tune",
    examples=(
        "tune /my/images --trials 20",
        "tune /my/images model=resnet18 --epochs 5",
    ),
)
def tune(
    *,
    trials: Annotated[int, Field(ge=1)] = 20,
    search: str | None = None,
    latency: bool = False,
    sampler: Sampler = "tpe",
    pruner: Pruner | None = None,
    name: str | None = None,
    storage: TypedPath | None = None,
    jobs: Annotated[int, Field(ge=1)] = 1,
    launcher: Annotated[Launcher, Choice("local")] = LOCAL,
    lost_after: Duration | None = None,
    output: Annotated[TypedPath, Trait.PLACE] = "outputs/tuning",
    settings: Annotated[tuple[str, ...], SettingsOf("train", AGAIN)] = (),
) -> TuneResult:
    """Search for the best settings of a model; the best become an experiment that `train experiment=NAME` runs.

    Each trial is a run of train, scored by its monitor on validation images. Poor trials are pruned; failed ones are
    recorded with the reason, and a trial whose process has died is resumed. The same command resumes a study, and
    several processes or machines with the same name= and storage= share one.

    Args:
        trials: of the whole study, earlier ones and those of other processes included.
        search: the space, a file in conf/search/; that of the model's family when left out.
        latency: minimize the latency of a prediction too; the result is the Pareto front of both.
        sampler: tpe learns from earlier trials, random does not.
        pruner: which trials are pruned: median those below the median of the others, hyperband by its brackets, none;
            median when left out, none with latency.
        name: of the study and the experiment; tuned_MODEL_DATA when left out.
        storage: a journal file, or the URL of an SQL database, such as postgresql+psycopg://USER@HOST/NAME; a journal
            in the study's folder when left out. Several machines need a database.
        jobs: processes that share the study.
        lost_after: with a database, a process that has not been heard of for so long counts as dead, and another one
            resumes its trial; 3m when left out. Too short a time has live trials trained twice.
        output: folder for the folders of studies.
        settings: every setting of train, for all trials; those typed are not searched.
    """
    optuna = import_optuna()
    if latency and pruner not in (None, "none"):
        raise UserError(
            f"pruner={pruner} has no effect with latency=true: trials with two objectives are not pruned",
            "one of them", "leave pruner= out",
        )  # fmt: skip
    refuse_own("tune", settings)
    train = entry("verb", "train")
    values = compose_values(train, without_tuned(settings))
    chosen, family = family_of(values["model"][TYPE_KEY], search=search)
    space = _untyped(family.space, settings, chosen)
    _check_space(space, settings, chosen)
    name = name or experiment_name(model_label(values["model"]), data_label(values["data"]), places_of(values["data"]))
    folder = Path(output).expanduser() / name
    make_folder(folder)
    max_epochs = int(values["trainer"]["max_epochs"])
    direction = "maximize" if goal_of(values["monitor"]) == "max" else "minimize"
    plan = Plan(
        name=name,
        directions=[direction, *(["minimize"] if latency else [])],
        identity={
            "space": {key: parameter.model_dump(exclude_defaults=True) for key, parameter in space.items()},
            "settings": dict(sorted(_key_and_value(typed) for typed in settings if not _is_machine_specific(typed))),
            "objectives": [values["monitor"], *(["latency"] if latency else [])],
        },
        max_epochs=max_epochs,
        pruner=pruner or ("none" if latency else "median"),
    )
    storage = _reachable(storage, launcher)
    lost_seconds = LOST_SECONDS if lost_after is None else lost_after.total_seconds()
    study = open_study(plan, storage or str(folder / "journal.log"), lost_seconds=lost_seconds)
    if not study.get_trials(deepcopy=False):
        # The first trial has the settings of a run without a search.
        study.enqueue_trial(_defaults(space, values), skip_if_exists=True)
    log.info(
        "study %s: space %s (%s), %d of %d trials done", name, chosen, ", ".join(space), len(counted(study)), trials
    )
    seed = int(values["seed"])
    if jobs > 1 or launcher != LOCAL:
        words = [
            *settings, *_own_words(
                trials=trials, search=search, latency=latency, sampler=sampler, pruner=pruner, name=name,
                storage=storage, lost_after=lost_after, output=Path(output).expanduser().absolute(),
            ),
        ]  # fmt: skip
        _run_workers(words, folder.absolute(), num_workers=jobs, launcher=launcher)
        _refuse_failing(study)

    def objective(trial: Trial) -> list[float]:
        if sum(one.number < trial.number for one in counted(study)) >= trials:
            # Another process has begun the last one.
            trial.set_user_attr(LOST, True)  # noqa: FBT003 - Optuna's signature
            raise _FailedError
        study.sampler = make_sampler(sampler, seed=seed, number=trial.number)
        trial.set_user_attr(OWNER, owner())
        with quiet_screen(but="classifier_training.workflows.many_runs.tun"):
            return _run(study, trial, space, settings, folder, latency=latency)

    while True:
        _tell_lost(study)
        if len(counted(study)) < trials:
            _optimize(study, objective)
            _refuse_failing(study)
        elif is_waiting(study):
            time.sleep(WAIT_SECONDS)
        else:
            break
    for left in folder.glob("trial-*"):
        shutil.rmtree(left, ignore_errors=True)
    summary = summarize(study, max_epochs=max_epochs)
    if summary is None:
        raise UserError(
            f"the study {name} has no finished trial: {_last_error(study)}", "one or more", f"trials={trials + 10}"
        )
    write_study(folder, study, summary, space)
    found = (
        f"Trial {summary.best.number} of {sum(summary.num_trials.values())}: {values['monitor']} "
        f"{summary.best.values[0]:.4f} (Optuna {optuna.__version__}, space {chosen})"
    )
    experiment = save_experiment(
        name,
        model=values["model"],
        data=values["data"],
        # The values that were found are those of the components that were typed.
        best={**_typed_components(settings), **summary.best.params},
        words=found,
    )
    written_down = {*space, "model", "model.name"}
    kept = [typed for typed in settings if _key_and_value(typed)[0] not in written_down]
    return TuneResult(name, experiment, summary, folder, [setting(*_key_and_value(typed)) for typed in kept])


class _FailedError(Exception):
    """A trial has failed, and why is recorded."""


def _own_words(**values: Any) -> list[str]:
    """Return settings of `tune` as words, those that are left out without one."""
    seconds = {name: f"{value.total_seconds():g}s" for name, value in values.items() if isinstance(value, timedelta)}
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in values.items()}
    return [word(name, value) for name, value in {**texts, **seconds}.items() if value is not None]


def _reachable(storage: str | None, launcher: Launcher) -> str | None:
    """Return a storage that all processes of a search reach, with its password in the environment.

    Raises:
        UserError: for a file where the processes may be on several machines.
    """
    if launcher != LOCAL and "://" not in (storage or ""):
        raise UserError(
            f"storage={storage or 'a journal file'}: the launcher may use several machines, which cannot share a file",
            "the URL of a database that all of them reach",
            "storage=postgresql+psycopg://USER@HOST/NAME, with the password in ~/.pgpass or $PGPASSWORD",
        )
    if storage is None:
        return None
    # Words of other processes can be read by everybody.
    bare, password = without_password(storage)
    if password is not None:
        os.environ[PASSWORD_VARIABLE] = password
    return bare


def _run_workers(words: Sequence[str], folder: Path, *, num_workers: int, launcher: Launcher) -> None:
    """Run processes that share the study, until it has all of its trials."""
    jobs = [
        JobSpec(
            name=f"{folder.name} worker {number}",
            folder=folder / f"worker-{number}",
            words=("tune", *words),
            environment=(PASSWORD_VARIABLE,),
        )
        for number in range(num_workers)
    ]
    outcomes = run_jobs(jobs, num_parallel=num_workers, remedy=AGAIN, launcher=launcher)
    for job in jobs:
        if (outcome := outcomes[job.name]) is not None and outcome.exit_code:
            log.warning("%s: %s (log: %s)", job.name, outcome.reason, job.log)


def _optimize(study: Study, objective: Callable[[Trial], list[float]]) -> None:
    """Run a trial of a study: heartbeats are sent under `study.optimize` alone."""
    optuna = import_optuna()
    begun: list[Trial] = []

    def run(trial: Trial) -> list[float]:
        begun.append(trial)
        return objective(trial)

    try:
        study.optimize(run, n_trials=1, catch=(_FailedError,))
    except (InterruptedRunError, KeyboardInterrupt, SystemExit) as error:
        if begun:
            trial = study.get_trials(deepcopy=False)[begun[0].number]
            if isinstance(error, SystemExit):
                study.tell(begun[0], state=optuna.trial.TrialState.FAIL)
            retry(study, trial)
        if isinstance(error, InterruptedRunError):
            # The trial alone can be resumed, too, but that would not continue the search.
            raise InterruptedRunError(error.exit_code - 128, AGAIN) from error
        raise
    except (TakenError, ValueError, optuna.exceptions.UpdateFinishedTrialError):
        # Optuna does not let an end be told of a trial that has ended.
        if not begun or study.get_trials(deepcopy=False)[begun[0].number].state != optuna.trial.TrialState.FAIL:
            raise
        log.warning("trial %d: was taken for dead, and is resumed by another process", begun[0].number)


def _run(
    study: Study, trial: Trial, space: Mapping[str, Parameter], settings: Sequence[str], folder: Path, *, latency: bool
) -> list[float]:
    """Run a trial and return its score, and latency where it is an objective; why it failed is recorded."""
    from classifier_training.workflows.many_runs.tuning_trials import run_trial

    optuna = import_optuna()
    before = study.get_trials(deepcopy=False)[trial.number]
    suggested = suggest(trial, space)
    log.info("trial %d: %s", trial.number, " ".join(f"{key}={_format(value)}" for key, value in suggested.items()))

    def report(epoch: int, score: float) -> bool:
        if latency:
            return False
        try:
            # An epoch that is trained again after its process died was reported before.
            if epoch not in before.intermediate_values:
                trial.report(score, epoch)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise TakenError from error
        return trial.should_prune()

    own = folder / f"trial-{original_number(before):04d}"
    try:
        result = run_trial(settings, suggested, own, report=report, times=latency)
    except (InterruptedRunError, TakenError):
        raise
    except Exception as error:
        reason = error.came if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        trial.set_user_attr(ERROR, reason)
        log.warning("trial %d failed: %s", trial.number, reason)
        raise _FailedError from error
    trial.set_user_attr(EPOCHS, result.num_epochs)
    trial.set_user_attr(SECONDS, result.seconds)
    if result.score is None:
        log.info("trial %d: pruned after %s", trial.number, plural(result.num_epochs, "epoch"))
        raise optuna.TrialPruned
    latency_ms = math.nan if result.latency_ms is None else result.latency_ms
    scores = [result.score, *([latency_ms] if latency else [])]
    if not all(map(math.isfinite, scores)):
        trial.set_user_attr(ERROR, f"the score is not finite: {scores}")
        raise _FailedError
    log.info(
        "trial %d: score %.4f after %s, %.0f s",
        trial.number, result.score, plural(result.num_epochs, "epoch"), result.seconds,
    )  # fmt: skip
    return scores


def _untyped(space: Mapping[str, Parameter], settings: Sequence[str], chosen: str) -> dict[str, Parameter]:
    """Return the part of a space that is not typed."""
    typed = {_key_and_value(word)[0] for word in settings}
    fixed = [key for key in space if key in typed]
    if fixed:
        log.info("not searched, since typed: %s", ", ".join(fixed))
    free = {key: parameter for key, parameter in space.items() if key not in typed}
    if not free:
        raise UserError(
            f"all settings of the search space {chosen} are typed: nothing is left to search",
            "one or more that are searched", f"leave out {fixed[0]}=…",
        )  # fmt: skip
    return free


def _check_space(space: Mapping[str, Parameter], settings: Sequence[str], name: str) -> None:
    """Raise when `train` refuses a value at an end of the space.

    Raises:
        UserError: for the first.
    """
    ends = {key: parameter.ends() for key, parameter in space.items()}
    for place in range(max(map(len, ends.values()))):
        values = {key: found[min(place, len(found) - 1)] for key, found in ends.items()}
        try:
            with quiet_screen(but="classifier_training.workflows"):
                compose(
                    entry("verb", "train"),
                    [*without_tuned(settings), *(word(key, value) for key, value in values.items())],
                )
        except UserError as error:
            raise UserError(
                f"search={name}: {error.came}",
                "a space of settings that this model has",
                f"another space: search=…; or one of your own: conf/search/{name}.yaml",
            ) from error


def _defaults(space: Mapping[str, Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a run without a search has, of those that lie within the space."""
    found: dict[str, Any] = {}
    for key, parameter in space.items():
        node = value_at(values, key)
        value = node.get(TYPE_KEY) if isinstance(node, dict) else node
        if parameter.contains(value):
            found[key] = value
    return found


def _tell_lost(study: Study) -> None:
    """Have trials tried again whose process has died."""
    lost = close_lost_trials(study)
    if lost:
        log.info("tried again, since its process has died: trial %s", ", ".join(map(str, lost)))


def _refuse_failing(study: Study) -> None:
    """Raise when the first trials have all failed.

    Raises:
        UserError: then, with the reason of the last.
    """
    states = import_optuna().trial.TrialState
    over = [trial for trial in counted(study) if trial.state.is_finished()]
    if len(over) >= MAX_FAILURES and all(trial.state == states.FAIL for trial in over):
        raise UserError(
            f"all of the first {len(over)} trials failed, the last with: {_last_error(study)}",
            "settings with which train works",
            f"try them: {command('train')} …; then start a new study: name=…",
        )


def _last_error(study: Study) -> str:
    errors = [trial.user_attrs[ERROR] for trial in counted(study) if ERROR in trial.user_attrs]
    return errors[-1] if errors else "none finished"


def _key_and_value(typed: str) -> tuple[str, str]:
    key, _, value = typed.lstrip("+").partition("=")
    return key, value


def _typed_components(settings: Sequence[str]) -> dict[str, Any]:
    """Return the components of a run that were typed, by group, but for data and what belongs to a machine."""
    options = entry("verb", "train").options
    return {
        override.key_or_group: typed_value(override)
        for override in parse_overrides(settings)
        if (option := options.get(override.key_or_group)) is not None
        and option.choice is not None
        and override.key_or_group not in ("model", "data", "launcher")
        and not _is_machine_specific(override.input_line or "")
        and override.value() is not None
    }


def _is_machine_specific(typed: str) -> bool:
    """Whether a setting may differ between machines that share a study."""
    return Trait.MACHINE in entry("verb", "train").traits(_key_and_value(typed)[0])


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
