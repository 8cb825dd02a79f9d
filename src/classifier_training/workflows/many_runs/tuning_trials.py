"""One trial: a run of `train` in this process that may be pruned and leaves no folder."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classifier_training.callbacks.observer import EpochEnd, FitEnd, Observer, RunContext, RunStopped
from classifier_training.conf.compose import compose
from classifier_training.conf.overrides import word
from classifier_training.conf.tuned import without_tuned
from classifier_training.core.errors import CheckFailedError, InterruptedRunError
from classifier_training.core.processes import is_held
from classifier_training.core.register import entry, entry_of
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import epoch_name
from classifier_training.export.bundle import withheld_reason
from classifier_training.export.session import measure_latency_ms
from classifier_training.workflows.many_runs.tuning_study import TakenError
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.train import train_here

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

EXPORT = "onnx_export"


@dataclass(kw_only=True)
class Watch(Observer):
    """Reports each epoch's score, and stops the run if the trial is pruned.

    Args:
        report: called with the epoch and the score; returns whether to prune the trial.
        num_epochs: trained epochs.
        score: of the best epoch; None if the run did not finish.
        is_stopped: whether it was pruned.
    """

    report: Callable[[int, float], bool]
    num_epochs: int = field(default=0, init=False)
    score: float | None = field(default=None, init=False)
    is_stopped: bool = field(default=False, init=False)

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """Report; see the base class."""
        self.num_epochs = len(end.rows)
        if self.report(end.epoch, float(end.rows[-1][run.monitor])) and self.num_epochs < run.max_epochs:
            self.is_stopped = True
            raise RunStopped(f"after {epoch_name(end.epoch)}")

    def fit_ended(self, run: RunContext, end: FitEnd) -> None:  # noqa: ARG002
        """Keep the score; see the base class."""
        self.num_epochs = len(end.rows)
        self.score = float(end.best_score)


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Result of a trial.

    Args:
        score: the monitored metric on validation, of the best epoch; None for a pruned trial.
        latency_ms: of one image, if it was measured.
        num_epochs: trained epochs.
        seconds: duration.
    """

    score: float | None
    latency_ms: float | None
    num_epochs: int
    seconds: float


def run_trial(
    words: Sequence[str],
    values: Mapping[str, Any],
    folder: Path,
    *,
    report: Callable[[int, float], bool],
    times: bool,
) -> TrialResult:
    """Train with some values and delete the run; one that was interrupted in that folder is resumed.

    The folder stays when this is interrupted, or the report says that the trial is another process's now.

    Args:
        words: settings of `train`.
        values: of the searched settings.
        folder: of the run; it is deleted.
        report: called with each epoch and its score; returns whether to prune the trial.
        times: whether to measure the latency.

    Raises:
        UserError: when the run cannot be made.
        InterruptedRunError: when a signal came.
        TakenError: raised by `report`, when the trial is another process's now.
    """
    started = time.monotonic()
    watch = Watch(report=report)
    latency_ms = None
    is_kept = False
    try:
        left = _interrupted_run(folder)
        new = [*without_tuned(words), *(word(key, value) for key, value in values.items()), word("output", folder)]
        arguments = compose(entry("verb", "train"), new if left is None else [word("resume", left.path)])
        # A classifier fitted by scikit-learn has no checkpoint, so its export is scored.
        keeps = {EXPORT} if times or hasattr(arguments["model"], "estimator") else set()
        # The folder of a trial is deleted, so what only shows results is not needed.
        arguments["callbacks"] = {
            name: item for name, item in arguments["callbacks"].items() if name in keeps or not _shows_only(item)
        }
        try:
            run_dir = train_here(TrainSettings(**arguments), observers=[watch]).run_dir
        except RunStopped:
            run_dir = None
        if times and run_dir is not None:
            reason = withheld_reason(run_dir, run_dir.onnx.name)
            if reason is not None:
                raise CheckFailedError(reason, "a model.onnx to time", "leave latency out, or another model")
            latency_ms = measure_latency_ms(run_dir.onnx)
    except (InterruptedRunError, KeyboardInterrupt, SystemExit, TakenError):
        is_kept = True
        raise
    finally:
        arguments = {}
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
        free_memory()
    return TrialResult(
        score=None if watch.is_stopped else watch.score,
        latency_ms=latency_ms,
        num_epochs=watch.num_epochs,
        seconds=time.monotonic() - started,
    )


def _interrupted_run(folder: Path) -> RunDir | None:
    """Return the run that a trial left; it waits for a process that is still writing to it."""
    found = [RunDir(path.parent) for path in sorted(folder.rglob(RunDir.config.relative), reverse=True)]
    left = next((run for run in found if run.resumable), None)
    while left is not None and is_held(left.lock):
        # It is taken for dead, and stops at the end of its epoch.
        time.sleep(1.0)
    return left


def _shows_only(callback: Any) -> bool:
    known = entry_of(callback)
    return known is not None and known.shows_only


def free_memory() -> None:
    """Free the memory of a run: networks are in reference cycles, and CUDA caches freed memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
