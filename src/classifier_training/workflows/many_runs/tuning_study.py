"""Optuna studies: opening their storage, checking their identity, and closing trials of dead processes."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from classifier_training.core.errors import UserError, refuse_missing, require_extra
from classifier_training.core.run_dir import make_folder
from classifier_training.core.runtime import derive_seed
from classifier_training.core.secrets import mask, mask_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from classifier_training.conf.searches import Parameter

Pruner = Literal["median", "hyperband", "none"]
Sampler = Literal["tpe", "random"]

IDENTITY = "identity"
"""Attribute of a study with its search space and settings."""

OWNER, LOST, ERROR, EPOCHS, SECONDS = "owner", "lost", "error", "epochs", "seconds"
"""Attributes of a trial: its process, whether that process died, its error, its epochs and seconds."""

MAX_RETRIES = 5
"""Times that a trial is started again since its process has died. One that ends its process each time, for lack of
memory, has failed then."""

LOST_SECONDS = 180
"""Time without a heartbeat after which the process of a trial counts as dead, where the storage is a database."""

HEARTBEATS = 6
"""Heartbeats in that time. One or two are late where a process exports a model or waits for the database, and a live
trial that is taken for dead is trained twice."""

STARTUP_TRIALS = 3
"""Trials without pruning at the start of a study."""


def import_optuna() -> ModuleType:
    """Return Optuna, with its messages switched off.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise require_extra("optuna", extra="tune", purpose="tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna


class TakenError(Exception):
    """A trial was given to another process, since this one was taken for dead."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Definition of a study.

    Args:
        name: of the study in its storage.
        directions: maximize or minimize, of the score and, where it is an objective, of the latency.
        identity: the space and all settings, as plain values.
        max_epochs: of a whole trial.
        pruner: stops bad trials early.
    """

    name: str
    directions: Sequence[str]
    identity: Mapping[str, Any]
    max_epochs: int
    pruner: Pruner


def open_study(plan: Plan, storage: str, *, lost_seconds: float = LOST_SECONDS) -> Study:
    """Open a study, or create it.

    Args:
        plan: its definition.
        storage: path of a journal, or the URL of a database, which several processes may share.
        lost_seconds: time without a heartbeat in a database after which the process of a trial counts as dead.

    Raises:
        UserError: when the storage cannot be opened, or has another study of that name.
    """
    optuna = import_optuna()
    shown = mask_text(storage)
    try:
        study: Study = optuna.create_study(
            study_name=plan.name,
            storage=_open_storage(optuna, storage, lost_seconds=lost_seconds),
            directions=list(plan.directions),
            pruner=make_pruner(plan.pruner, max_epochs=plan.max_epochs),
            load_if_exists=True,
        )
        kept = study.user_attrs.get(IDENTITY)
    except UserError:
        raise
    except Exception as error:  # storages raise what their databases and files raise
        raise UserError(
            f"storage={shown}: no study can be read there ({type(error).__name__}: {str(error).splitlines()[0]})"
            if str(error)
            else f"storage={shown}: no study can be read there ({type(error).__name__})",
            "a journal file that tune wrote, or the URL of an existing database",
            "restore it from a copy, or start a new study: name=…",
        ) from error
    # In the form in which a storage returns it.
    identity = mask(json.loads(json.dumps(plan.identity)))
    if kept is None:
        study.set_user_attr(IDENTITY, identity)
    elif kept != identity:
        raise UserError(
            f"storage={shown}: the study {plan.name} is another one: {_difference(kept, identity)}",
            "the search space and settings that it started with, because other trials are not comparable",
            "start a new study: name=…",
        )
    return study


def make_sampler(kind: Sampler, *, seed: int, number: int) -> BaseSampler:
    """Return the sampler of a trial: a pure function of the seed, its number and the previous trials."""
    optuna = import_optuna()
    own = derive_seed(seed, number) % 2**32
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=own)  # type: ignore[no-any-return]
    # Bergstra et al. 2011; running trials count as bad, so that other processes do not sample close to them.
    return optuna.samplers.TPESampler(seed=own, multivariate=False, constant_liar=True)  # type: ignore[no-any-return]


def make_pruner(kind: Pruner, *, max_epochs: int) -> BasePruner:
    """Return the pruner: below the median, or Hyperband (Li et al. 2018, arXiv:1603.06560)."""
    pruners = import_optuna().pruners
    if kind == "median":
        return pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=max(1, max_epochs // 10))  # type: ignore[no-any-return]
    if kind == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)  # type: ignore[no-any-return]
    return pruners.NopPruner()  # type: ignore[no-any-return]


def suggest(trial: Trial, space: Mapping[str, Parameter]) -> dict[str, Any]:
    """Sample the values of a trial."""
    return {key: _suggest(trial, key, parameter) for key, parameter in space.items()}


def _suggest(trial: Trial, key: str, parameter: Parameter) -> Any:
    if parameter.choices is not None:
        return trial.suggest_categorical(key, parameter.choices)
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.is_whole:
        step = 1 if parameter.step is None else int(parameter.step)
        return trial.suggest_int(key, int(parameter.low), int(parameter.high), step=step, log=parameter.log)
    return trial.suggest_float(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def owner() -> str:
    """Return a name of this process that is unique across machines."""
    return f"{platform.node()}:{os.getpid()}"


def is_gone(name: str | None) -> bool:
    """Whether an owner was a process of this machine that has exited."""
    host, _, pid = (name or "").rpartition(":")
    if host != platform.node() or not pid.isdecimal() or name == owner():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def close_lost_trials(study: Study) -> list[int]:
    """Have the trials of dead processes tried again; returns their numbers.

    In a database a process counts as dead when it has missed its heartbeats; in a journal, when it was one of this
    machine and has exited.
    """
    optuna = import_optuna()
    states, storage = optuna.trial.TrialState, study._storage  # noqa: SLF001 - no public way
    if has_heartbeats(study):
        before = {trial.number for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,))}
        optuna.storages.fail_stale_trials(study)
        return [one.number for one in study.get_trials(deepcopy=False, states=(states.FAIL,)) if one.number in before]
    lost = []
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        if is_gone(trial.user_attrs.get(OWNER)):
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                storage.set_trial_user_attr(trial._trial_id, LOST, True)  # noqa: SLF001, FBT003 - no public way
                storage.set_trial_state_values(trial._trial_id, state=states.FAIL)  # noqa: SLF001 - no public way
                retry(study, trial)
                lost.append(trial.number)
    return lost


def has_heartbeats(study: Study) -> bool:
    """Whether the processes of a study's trials are known to be alive on every machine."""
    return getattr(study._storage, "get_heartbeat_interval", lambda: None)() is not None  # noqa: SLF001 - no public way


def retry(study: Study, trial: FrozenTrial) -> None:
    """Have a trial tried again with its values, in its folder, by whoever is free."""
    callbacks = import_optuna().storages
    again = copy.deepcopy(trial)
    again._user_attrs = {}  # noqa: SLF001 - the next one has an owner and an end of its own
    callbacks.RetryHeartbeatStaleTrialCallback(MAX_RETRIES, inherit_intermediate_values=True)(study, again)


def original_number(trial: FrozenTrial) -> int:
    """Return the number of the first of a trial and those that it is tried again for."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the process of a trial has died, so that another one stands for it."""
    if trial.user_attrs.get(LOST):
        return True
    tried_before = len(trial.system_attrs.get("retry_history", []))
    is_failed = trial.state == import_optuna().trial.TrialState.FAIL
    return is_failed and ERROR not in trial.user_attrs and tried_before < MAX_RETRIES


def counted(study: Study) -> list[FrozenTrial]:
    """Return the finished and running trials, without lost and waiting ones."""
    waiting = import_optuna().trial.TrialState.WAITING
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != waiting and not is_lost(trial)]


def is_waiting(study: Study) -> bool:
    """Whether trials of other live processes are running, or some wait to be tried again."""
    states = import_optuna().trial.TrialState
    if study.get_trials(deepcopy=False, states=(states.WAITING,)):
        return True
    running = study.get_trials(deepcopy=False, states=(states.RUNNING,))
    # Of a process of another machine a journal does not know whether it lives.
    host = f"{platform.node()}:"
    return any(has_heartbeats(study) or trial.user_attrs.get(OWNER, "").startswith(host) for trial in running)


def without_password(storage: str) -> tuple[str, str | None]:
    """Return the URL of a PostgreSQL database without its password, and the password, which $PGPASSWORD can hold."""
    parts = urlsplit(storage)
    if not parts.scheme.startswith("postgresql") or parts.password is None:
        return storage, None
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}@{host}")), unquote(parts.password)


def _open_storage(optuna: ModuleType, storage: str, *, lost_seconds: float) -> BaseStorage:
    if "://" in storage:
        if storage.startswith("postgresql"):
            refuse_missing("postgres", purpose="storage=postgresql+psycopg://…")
        return optuna.storages.RDBStorage(  # type: ignore[no-any-return]
            storage,
            engine_kwargs={"pool_pre_ping": True},  # a database that was started again is connected to again
            heartbeat_interval=max(1, round(lost_seconds / HEARTBEATS)),
            grace_period=max(2, round(lost_seconds)),
            heartbeat_stale_trial_callback=retry,
        )
    path = Path(storage).expanduser()
    make_folder(path.parent)
    journal = optuna.storages.journal
    if path.exists():
        _truncate_partial_line(path, journal.JournalFileSymlinkLock(str(path)))
    return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path)))  # type: ignore[no-any-return]


def _truncate_partial_line(path: Path, lock: Any) -> None:
    """Remove an incomplete last line of a killed process, after which nothing could be read."""
    if _is_complete(path):
        return
    lock.acquire()
    try:
        if not _is_complete(path):
            content = path.read_bytes()
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _is_complete(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return True
        file.seek(size - 1)
        return file.read(1) == b"\n"


def _difference(kept: Any, wanted: Mapping[str, Any]) -> str:
    """Return the first difference of two studies."""
    if not isinstance(kept, dict):
        return "it was not made by tune"
    for part, value in wanted.items():
        before = kept.get(part)
        if before != value and isinstance(before, dict) and isinstance(value, dict):
            for key in {**before, **value}:
                if before.get(key) != value.get(key):
                    return f"{part}: {key} was {_words(before.get(key))} and is {_words(value.get(key))}"
        if before != value:
            return f"{part} was {_words(before)} and is {_words(value)}"
    return "it has more settings"


def _words(value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {one}" for key, one in value.items() if one not in (None, False)) + "}"
    return str(value)
