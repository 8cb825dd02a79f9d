"""What is known of a run while it trains and after: read from its folder, a file again only when it has changed.

Nothing here needs torch. Files that are links, or lie behind one, count as missing: nothing outside the folder is read.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.conf.unused_settings import is_fitted_at_once
from classifier_training.core.errors import UserError
from classifier_training.core.metrics import goal_of
from classifier_training.core.processes import is_held
from classifier_training.core.register import TYPE_KEY
from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import DamagedFileError, read_rows, read_values
from classifier_training.core.runtime import FAILED_WORDS, INTERRUPTED_WORDS
from classifier_training.registry.record import BUNDLE, DAMAGED, FINISHED, RunRecord
from classifier_training.registry.scan import Registry
from classifier_training.training.decisions import Decisions, read_decisions
from classifier_training.workflows.evaluating.finished import read_run_predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.evaluation.leaderboard import RunPredictions

RUNNING, INTERRUPTED, FAILED = "running", "interrupted", "failed"
"""States of an unfinished run. One that no process works in has failed if its log ends so; else it was interrupted."""

PREPARING, TRAINING, ENDING = "preparing", "training", "ending"
"""Phases of a running one: before its first epoch, in its epochs, and its export, score and report."""

NUM_FILES = 4096
"""Files of each kind whose content is kept in memory."""

TAIL_BYTES = 32_768
"""Of train.log, from its end."""

NUM_TIMED = 3
"""Newest epochs whose mean time the others are expected to take."""

FRESH_SECONDS = 1.0
"""For so long the runs of a folder are not looked for again."""

Stamp = tuple[int, int, int]


def stamp(run: RunDir, path: Path) -> Stamp | None:
    """Return what changes whenever a file of a run does: time, size and inode; None where it has no such file."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    inside = os.path.relpath(path, run.path)
    if not stat.S_ISREG(found.st_mode) or os.path.realpath(path) != os.path.join(os.path.realpath(run.path), inside):  # noqa: PTH118
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass(frozen=True)
class History:
    """The epochs of a run, from metrics.csv.

    Args:
        columns: values of each column, None where the epoch has none.
    """

    columns: Mapping[str, Sequence[float | None]]

    @property
    def num_epochs(self) -> int:
        """Epochs that came to their end."""
        return len(next(iter(self.columns.values()), ()))

    def last(self, column: str) -> float | None:
        """Value of the newest epoch."""
        values = self.columns.get(column)
        return values[-1] if values else None

    def best(self, column: str) -> tuple[float, int] | None:
        """Best value of a metric, and the number of its epoch from 0; None where no epoch has it."""
        known = [(value, -epoch) for epoch, value in enumerate(self.columns.get(column, ())) if value is not None]
        if not known:
            return None
        value, epoch = max(known) if goal_of(column) == "max" else min(known, key=lambda item: (item[0], -item[1]))
        return value, -epoch


def read_history(run: RunDir) -> History:
    """Read the epochs of a run; none where it has no metrics.csv.

    Raises:
        UserError: when the file is damaged.
    """
    found = stamp(run, run.metrics)
    return History({}) if found is None else _history(str(run.metrics), found)


@lru_cache(NUM_FILES)
def _history(path: str, _: Stamp) -> History:
    rows = read_rows(Path(path))
    try:
        return History(
            {name: tuple(float(row[name]) if row[name] else None for row in rows) for name in (rows[0] if rows else ())}
        )
    except (ValueError, TypeError) as error:
        raise DamagedFileError(Path(path), f"no table of metrics: {error}") from error


def values_of(run: RunDir, path: Path) -> Mapping[str, Any]:
    """Read a JSON or YAML file of a run; an empty mapping where it is missing.

    Raises:
        UserError: when it is damaged.
    """
    found = stamp(run, path)
    return {} if found is None else _values(str(path), found)


@lru_cache(NUM_FILES)
def _values(path: str, _: Stamp) -> Mapping[str, Any]:
    return read_values(Path(path))


def decisions_of(run: RunDir) -> Decisions:
    """Read what a run decided by itself.

    Raises:
        UserError: when the file is damaged.
    """
    return Decisions() if stamp(run, run.decisions) is None else read_decisions(run.decisions)


def run_predictions_of(run: RunDir) -> RunPredictions | None:
    """Read the predictions of a run's evaluation; None where it has none.

    Raises:
        UserError: when they are damaged.
    """
    found = stamp(run, run.predictions)
    return None if found is None else _read(run, found)


@lru_cache(16)
def _read(run: RunDir, _: Stamp) -> RunPredictions:
    return read_run_predictions(run)


@dataclass(frozen=True)
class LogLine:
    """A message of train.log.

    Args:
        at: day and time.
        level: INFO, WARNING or ERROR.
        text: the message, which may have several lines.
    """

    at: str
    level: str
    text: str


HEAD = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} ([A-Z]+) [\w.]+: (.*)$")


def read_log(run: RunDir, *, num_bytes: int = TAIL_BYTES) -> list[LogLine]:
    """Read the newest messages of a run, the oldest first; none where there is no log."""
    if stamp(run, run.log) is None:
        return []
    with run.log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - num_bytes))
        lines = file.read(num_bytes).decode("utf-8", "replace").splitlines()
    found: list[LogLine] = []
    for line in lines:
        if head := HEAD.match(line):
            found.append(LogLine(*head.groups()))
        elif found:
            found[-1] = LogLine(found[-1].at, found[-1].level, f"{found[-1].text}\n{line}")
    return found


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is.

    Args:
        state: running, finished, interrupted, failed, damaged or bundle (an export without its run).
        phase: of a running one: preparing, training or ending; empty for others.
        reason: what ended its training, or the run; empty where it is not known.
        epochs_done: that came to their end.
        epochs_planned: of the whole run; None for a model that is fitted at once.
        is_asked_to_stop: whether training ends after the present epoch.
        ends_at: when the last planned epoch will be over, in seconds since 1970; None where it cannot be told.
        monitor: the metric that chooses the weights.
        best: its best value so far, and the number of that epoch from 0.
        images_per_second: in the newest epoch.
        epoch_seconds: of the newest epochs, in the mean.
        trained_seconds: that all epochs took.
        memory_mb: the most that was in use.
    """

    state: str
    phase: str = ""
    reason: str = ""
    epochs_done: int = 0
    epochs_planned: int | None = None
    is_asked_to_stop: bool = False
    ends_at: float | None = None
    monitor: str = ""
    best: tuple[float, int] | None = None
    images_per_second: float | None = None
    epoch_seconds: float | None = None
    trained_seconds: float = 0.0
    memory_mb: float | None = None

    @property
    def can_stop(self) -> bool:
        """Whether a request to stop has an effect."""
        return self.state == RUNNING and self.phase != ENDING and self.epochs_planned is not None


def read_status(run: RunDir, record: RunRecord | None = None) -> RunStatus:
    """Say how far a run is, by its files and its lock.

    Args:
        run: its folder.
        record: what the registry knows of it, which may be that it is damaged.
    """
    if record is not None and record.status in (DAMAGED, BUNDLE):
        return RunStatus(state=record.status, reason=record.problem)
    try:
        return _status(run)
    except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
        words = str(error).partition("\n")[0] if isinstance(error, (UserError, OSError)) else repr(error)
        return RunStatus(state=DAMAGED, reason=words)


def _status(run: RunDir) -> RunStatus:
    config, history, result = values_of(run, run.config), read_history(run), values_of(run, run.result)
    monitor = str(config.get("monitor", ""))
    planned = (config.get("trainer") or {}).get("max_epochs") if has_epochs(config) else None
    if planned is not None:
        planned = decisions_of(run).length(int(planned))
    seconds = [value for value in history.columns.get("epoch_seconds", ()) if value is not None]
    pace = sum(seconds[-NUM_TIMED:]) / len(seconds[-NUM_TIMED:]) if seconds else None
    state, phase, reason = FINISHED, "", str(result.get("ended", ""))
    if not result:
        state, phase, reason = _unfinished(run, history)
    changed = stamp(run, run.metrics)
    ends_at = None
    if phase == TRAINING and pace is not None and planned is not None and changed is not None:
        ends_at = changed[0] / 1e9 + pace * (planned - history.num_epochs)
    return RunStatus(
        state=state,
        phase=phase,
        reason=reason,
        epochs_done=history.num_epochs,
        epochs_planned=planned,
        is_asked_to_stop=stamp(run, run.stop_request) is not None,
        ends_at=ends_at,
        monitor=monitor,
        best=history.best(monitor),
        images_per_second=history.last("images_per_second"),
        epoch_seconds=pace,
        trained_seconds=sum(seconds),
        memory_mb=max(filter(None, history.columns.get("peak_memory_mb", ())), default=None),
    )


def _unfinished(run: RunDir, history: History) -> tuple[str, str, str]:
    """State, phase and reason of a run without a result."""
    lines = read_log(run)
    if is_held(run.lock):
        # A run that is resumed has the end of an earlier start in its log.
        last = next((line.text for line in reversed(lines) if line.text.startswith(PHASE_WORDS)), "")
        if last.startswith(ENDED_WORDS):
            return RUNNING, ENDING, last.removeprefix(ENDED_WORDS)
        return RUNNING, TRAINING if history.num_epochs else PREPARING, ""
    last = lines[-1].text if lines else ""
    if last.startswith(FAILED_WORDS):
        return FAILED, "", last.removeprefix(FAILED_WORDS).partition("\n")[0]
    return INTERRUPTED, "", last.removeprefix(INTERRUPTED_WORDS) if last.startswith(INTERRUPTED_WORDS) else ""


ENDED_WORDS = "training has ended: "
PHASE_WORDS = (ENDED_WORDS, "resume: training continues", "training: ")
"""What messages begin with that say which phase a run is in."""


def has_epochs(config: Mapping[str, Any]) -> bool:
    """Whether a run trains in epochs; shallow models and linear probes are fitted at once."""
    return not (
        is_fitted_at_once((config.get("model") or {}).get(TYPE_KEY))
        or (config.get("transfer") or {}).get(TYPE_KEY) == "linear_probe"
    )


def signature(run: RunDir) -> str:
    """Return a text that changes when anything does that a page on the run shows; a few looks at the disk."""
    watched = (run.metrics, run.log, run.result, run.stop_request, run.config, run.decisions, run.report)
    return f"{hash((is_held(run.lock), *(stamp(run, path) for path in watched))) & (2**64 - 1):x}"


class Runs:
    """The runs below a folder, for pages that several people may look at.

    Args:
        root: the folder, which need not be there yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._found: dict[str, RunRecord] = {}
        self._looked_at = float("-inf")

    def records(self) -> list[RunRecord]:
        """Return what the registry knows of each run.

        Raises:
            UserError: when the folder cannot be read.
        """
        return list(self._records().values())

    def find(self, key: str) -> RunRecord | None:
        """Return the run of a key; None for what is no run below the folder."""
        found = self._records().get(key)
        if found is None and (self.root / key).is_dir():
            # A run that has just begun.
            found = self._records(fresh_seconds=0).get(key)
        return found

    def folder(self, record: RunRecord) -> RunDir:
        """Folder of a run."""
        return RunDir(self.root / record.folder)

    def _records(self, fresh_seconds: float = FRESH_SECONDS) -> dict[str, RunRecord]:
        with self._lock:
            if time.monotonic() - self._looked_at > fresh_seconds:
                found = Registry.open(self.root).runs.values() if self.root.is_dir() else ()
                self._found = {key_of(record.folder): record for record in found}
                self._looked_at = time.monotonic()
            return self._found


def key_of(folder: str) -> str:
    """Return the name of a run in addresses: its folder below that of all runs, as a server decodes it."""
    return os.fsencode(folder).decode("utf-8", "replace")
