"""Jobs and launchers: a job is plain data, and a launcher runs jobs on some machine."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from classifier_training.conf.overrides import word
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry_of
from classifier_training.core.run_dir import RunDir
from classifier_training.core.secrets import mask_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GRACE_SECONDS = 60.0
"""Time for a job to write its checkpoint after SIGTERM."""

TAIL_BYTES = 20_000

NODE_VARIABLE = "CLASSIFIER_TRAINING_NODE"

LOCAL_NAME = "local"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A command to run once: plain data, which means the same on every machine that sees its folders.

    A job that is started again does nothing if it succeeded before, and a run of `train` resumes where it was
    interrupted.

    Args:
        name: for display; unique among the jobs of a call.
        folder: of its log and record, and for `train` of its run, too.
        words: of the command line.
        environment: names of environment variables that the command needs; their values are not written down.
        directory: working folder of the command.
    """

    name: str
    folder: Path
    words: tuple[str, ...]
    environment: tuple[str, ...] = ()
    directory: Path = field(default_factory=Path.cwd)

    @property
    def log(self) -> Path:
        """Output of the process."""
        return self.folder / "job.log"

    @property
    def record(self) -> Path:
        """Outcome of its last process."""
        return self.folder / "job.json"

    def words_to_run(self) -> list[str] | None:
        """Return the words to run now, which resume an interrupted run; None where nothing is left to do."""
        verb, *settings = self.words
        if verb == "tune":
            # A study knows by itself what is left of it.
            return list(self.words)
        if verb != "train" or any(typed.startswith("resume=") for typed in settings):
            outcome = read_outcome(self.record)
            is_done = outcome is not None and outcome.exit_code == 0 and outcome.words == mask_words(self.words)
            return None if is_done else list(self.words)
        files = sorted(self.folder.rglob(RunDir.config.relative), reverse=True)
        # A cross-validation is one run, which resumes its folds.
        begun = [run for run in (RunDir(path.parent) for path in files) if not run.is_fold]
        if any(run.result.exists() for run in begun):
            return None
        left = next((run for run in begun if run.resumable), None)
        return list(self.words) if left is None else ["train", word("resume", left.path)]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One of the machines that share a job: each runs the job's command, and `train` makes one run of them.

    Args:
        rank: of this machine; that of rank 0 keeps the log and the record of the job.
        num_nodes: number of machines.
        address: of the machine of rank 0.
        port: on which its processes meet the others'.
    """

    rank: int = 0
    num_nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables by which `of_process` knows this; none for a job of one machine."""
        text = f"{self.rank}/{self.num_nodes}/{self.address}/{self.port}"
        return {NODE_VARIABLE: text} if self.num_nodes > 1 else {}

    @classmethod
    def of_process(cls) -> Node:
        """Return which machine of its job this process is on."""
        rank, number, address, port = os.environ.get(NODE_VARIABLE, "0/1/127.0.0.1/0").split("/")
        return cls(rank=int(rank), num_nodes=int(number), address=address, port=int(port))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of the last process of a job.

    Args:
        exit_code: 0 for success; negative for a signal.
        seconds: duration.
        reason: why it failed; empty for success.
        words: of the job, without secrets.
    """

    exit_code: int
    seconds: float
    reason: str = ""
    words: Sequence[str] = ()


class Submitted(Protocol):
    """Jobs that a launcher has taken."""

    def ended(self) -> Mapping[str, Outcome | None]:
        """Return the outcomes of the jobs that have ended, by name; None for those with nothing left to do."""
        ...

    def cancel(self) -> None:
        """End all jobs as SIGTERM does, so that they can be resumed; returns when none is running."""
        ...


class Launcher(Protocol):
    """Runs jobs somewhere."""

    def submit(self, jobs: Sequence[JobSpec], *, num_parallel: int | None) -> Submitted:
        """Start jobs, or have them started.

        Args:
            jobs: what to run.
            num_parallel: jobs at a time; the launcher's own choice where None.

        Raises:
            UserError: when jobs cannot be run there.
        """
        ...


def read_outcome(record: Path) -> Outcome | None:
    """Read the record of a job; None if it is missing or damaged."""
    try:
        return Outcome(**json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def failure_words(code: int, tail: str) -> str:
    """Say why a process failed, from its exit code and the last of what it said."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", as by a system that runs out of memory" if code == -signal.SIGKILL else "")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    said = (errors or lines or [""])[-1].removeprefix("error: ")
    return f"exit code {code}: {said}" if said else f"exit code {code}"


def read_tail(path: Path) -> str:
    """Return the end of a log; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def refuse_secrets(jobs: Sequence[JobSpec], *, launcher: str) -> None:
    """Raise when the words of a job have a secret: they are written into files where jobs of other machines are.

    Raises:
        UserError: for the first.
    """
    for job in jobs:
        for typed, masked in zip(job.words, mask_words(job.words), strict=True):
            if typed != masked:
                raise UserError(
                    f"{masked}: a secret, which launcher={launcher} would write into a file",
                    "settings without secrets",
                    "an environment variable or a file of the program that needs it, such as ~/.pgpass",
                )


def refuse_nodes(jobs: Sequence[JobSpec], num_nodes: int) -> None:
    """Raise when several machines are asked for, and a job is of a verb that they cannot share.

    Raises:
        UserError: for the first.
    """
    for job in jobs if num_nodes > 1 else ():
        if job.words[0] != "train":
            raise UserError(
                f"launcher.nodes={num_nodes}: {job.words[0]} runs on one machine",
                "runs of train, which several machines can share",
                "leave launcher.nodes out",
            )


def refuse_elsewhere(launcher: Launcher) -> None:
    """Raise when a program that calls a verb as a function chooses a launcher, which starts command lines.

    Raises:
        UserError: then.
    """
    known = entry_of(launcher)
    if known is not None and known.name != LOCAL_NAME:
        raise UserError(
            f"launcher={known.name}: a function call runs in its own process",
            "the command line, which a launcher can start elsewhere",
            f"classifier-training train … launcher={known.name}",
        )


def passed_on(names: Sequence[str]) -> dict[str, str]:
    """Return the variables of this process that a job on another machine has: those named, and the program's own."""
    return {
        name: value for name, value in os.environ.items() if name in names or name.startswith("CLASSIFIER_TRAINING_")
    }
