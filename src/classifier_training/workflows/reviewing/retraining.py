"""Training with the corrections, as a command of its own whose log and result the page shows."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import RunReader, read_values
from classifier_training.core.runtime import command
from classifier_training.registry.scan import run_folders

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

TAIL_BYTES = 12_000
"""Of the log that the page shows."""

SHOWN = ("balanced_accuracy", "acc_top1", "macro_f1")
"""Metrics before and after, by their names in result.json."""

WAYS = {
    "last_layer": ("Refit the last layer", ("transfer=linear_probe",)),
    "network": ("Train the network again", ()),
}
"""What the page offers: the words of its button, and those that are added to the command."""

EFFECTS = ("accuracy", "balanced_accuracy")
"""Those in the comparison that a run with corrections writes."""

GRACE_SECONDS = 10


class Retraining:
    """Runs `train init_from=RUN` beside the answers to requests, once at a time.

    Args:
        run: that it starts from.
        settings: further words of the command.
        output: folder of run folders.
    """

    def __init__(self, run: RunDir, settings: Sequence[str], *, output: Path) -> None:
        self.run = run
        self.output = output
        self.arguments = ["train", f"init_from={run.path.absolute()}", *settings, f"output={output}"]
        self._process: subprocess.Popen[bytes] | None = None
        self._before: set[str] = set()
        self._lock = Lock()

    @property
    def words(self) -> str:
        """What a click does."""
        return (
            f"Runs {command(shlex.join(self.arguments))}, the first button with transfer=linear_probe: the network "
            "stays as it is, and the answer comes soonest."
        )

    @property
    def log(self) -> Path:
        """What the command says."""
        return self.output / "review-train.log"

    def start(self, way: str) -> None:
        """Start the command in one of the ways of `WAYS`, unless it is running."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self.output.mkdir(parents=True, exist_ok=True)
            self._before = {path for _, path in run_folders(self.output)}
            with self.log.open("wb") as file:
                self._process = subprocess.Popen(  # noqa: S603 - our own program, without a shell
                    [sys.executable, "-m", "classifier_training", *self.arguments, *WAYS[way][1]],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )

    def stop(self) -> None:
        """End a running command; it saves a checkpoint to resume from."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        log.info("the training that was started here is ended; resume=latest resumes it")
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)

    def to_dict(self) -> dict[str, Any]:
        """How far it is, the end of its log, and, when it has ended well, the metrics before and after."""
        process = self._process
        if process is None:
            return {"state": "ready"}
        code = process.poll()
        found: dict[str, Any] = {"state": "running" if code is None else "failed" if code else "done"}
        found["log"] = _tail(self.log)
        if code == 0:
            new = sorted({path for _, path in run_folders(self.output)} - self._before)
            if new:
                after = RunDir(Path(new[-1]))
                found |= {"run": str(after.path), **_compare(self.run, after)}
        return found


def _compare(before: RunDir, after: RunDir) -> dict[str, Any]:
    """The metrics of two runs on the same images and the same, corrected labels; else each with its own labels."""
    effect = _effect(after)
    if effect is not None:
        labels = effect["corrected_labels"]
        rows = [{"name": name.replace("_", " "), **labels[name]} for name in EFFECTS if name in labels]
        words = [effect["words"]] if isinstance(effect["words"], str) else [*effect["words"]]
        return {"metrics": rows, "words": [*words, *effect.get("cautions", [])]}
    results = [RunReader(run).result for run in (before, after)]
    rows = []
    for name in SHOWN:
        values = [result.get("metrics", {}).get(name) for result in results]
        if all(isinstance(value, int | float) for value in values):
            rows.append({"name": name.replace("_", " "), "before": values[0], "after": values[1]})
    return {"metrics": rows, "words": ["Each run is scored with the labels that it had."]}


def _effect(run: RunDir) -> dict[str, Any] | None:
    try:
        return read_values(run.corrections_effect)
    except FileNotFoundError:
        return None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
