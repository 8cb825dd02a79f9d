"""Many jobs by a launcher: outcomes, logs that are followed, and interruptions."""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.conf.overrides import parse_overrides, typed_value, word
from classifier_training.core.errors import InterruptedRunError, UserError
from classifier_training.core.run_dir import make_folder
from classifier_training.workflows.many_runs.launch.base import JobSpec, Launcher, Outcome
from classifier_training.workflows.many_runs.launch.local import LOCAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from hydra.core.override_parser.types import Override

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05


def run_jobs(
    jobs: Sequence[JobSpec],
    *,
    num_parallel: int | None = None,
    remedy: str,
    launcher: Launcher = LOCAL,
    follow: bool = False,
) -> dict[str, Outcome | None]:
    """Run jobs to their end; a failed job does not stop the others.

    Ctrl-C and SIGTERM are passed to the running jobs as SIGTERM.

    Args:
        jobs: what to run.
        num_parallel: jobs at a time; one on this machine, and as many as there is room for elsewhere, where None.
        remedy: what the user does after an interruption.
        launcher: what runs them.
        follow: whether to print their logs while they grow.

    Returns:
        The outcome of each by name; None for those with nothing left to do.

    Raises:
        UserError: when the launcher cannot run them.
        InterruptedRunError: when a signal ended it; no process is left.
    """
    if not jobs:
        return {}
    logs = [_Followed(job.log) for job in jobs] if follow else []
    with _signals_kept() as received:
        submitted = launcher.submit(jobs, num_parallel=num_parallel)
        try:
            while len(outcomes := submitted.ended()) < len(jobs) and not received:
                for followed in logs:
                    followed.print_new()
                time.sleep(POLL_SECONDS)
            if received:
                submitted.cancel()
        except BaseException:
            submitted.cancel()
            raise
        finally:
            for followed in logs:
                followed.print_new()
    if received:
        raise InterruptedRunError(received[0], remedy)
    return {job.name: outcomes[job.name] for job in jobs}


@dataclass(frozen=True)
class CommandResult:
    """Result of a command that ran elsewhere.

    Args:
        job: that it was.
        outcome: of it; None where nothing was left to do.
    """

    job: JobSpec
    outcome: Outcome | None

    @property
    def exit_code(self) -> int:
        """That of the command; as the shell has it where a signal ended it."""
        code = 0 if self.outcome is None else self.outcome.exit_code
        return 128 - code if code < 0 else code

    def __str__(self) -> str:
        ended = "done" if self.outcome is None else self.outcome.reason or f"done after {self.outcome.seconds:.0f} s"
        return f"job {self.job.name}: {ended}\n  log: {self.job.log}"


def run_command(verb: str, words: Sequence[str], *, launcher: Launcher, output: str) -> CommandResult:
    """Run a command by a launcher, print its log while it grows, and wait for its end.

    Args:
        verb: to run.
        words: its settings, without the launcher's.
        launcher: what runs it.
        output: folder that the job's folder is made in; a new run of `train` is in the job's folder.

    Raises:
        UserError: when the launcher cannot run it.
        InterruptedRunError: when a signal ended it.
    """
    name = f"{verb}-{datetime.now().astimezone():%Y-%m-%d-%H-%M-%S}-{secrets.token_hex(2)}"
    folder = (Path(output).expanduser() / "jobs" / name).absolute()
    make_folder(folder)
    keys = {text.lstrip("+~").partition("=")[0] for text in words}
    if verb == "train" and "resume" not in keys:
        words = [*(text for text in words if text.partition("=")[0] != "output"), word("output", folder)]
    job = JobSpec(name=name, folder=folder, words=(verb, *words))
    log.info("job %s: %s", name, folder)
    outcomes = run_jobs(
        [job],
        remedy=f"classifier-training train resume=RUN, with the newest run below {folder}",
        launcher=launcher,
        follow=True,
    )
    return CommandResult(job, outcomes[name])


@dataclass(frozen=True)
class CommandResults:
    """Results of a command for each combination of settings.

    Args:
        results: of the jobs.
    """

    results: Sequence[CommandResult]

    @property
    def exit_code(self) -> int:
        """The largest of the jobs."""
        return max(result.exit_code for result in self.results)

    def __str__(self) -> str:
        return "\n".join(f"combination: {' '.join(result.job.words[1:])}\n{result}" for result in self.results)


def run_commands(verb: str, combinations: Sequence[Sequence[str]], *, launcher: Launcher) -> CommandResults:
    """Run a verb once for each combination of settings by a launcher, all at the same time if there is room.

    Raises:
        UserError: when the launcher cannot run them.
        InterruptedRunError: when a signal ended them.
    """
    now = datetime.now().astimezone()
    outputs = {str(typed_value(one)) for words in combinations for one in parse_overrides(words) if _is_output(one)}
    if outputs and (verb != "train" or len(outputs) > 1):
        raise UserError(
            f"output={min(outputs)} beside launcher= and --multirun: each combination writes into a folder of its own",
            "no output, or for train the folder of all runs",
            "leave it out",
        )
    place = Path(min(outputs, default="outputs")).expanduser() / "multirun"
    folder = (place / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{secrets.token_hex(2)}").absolute()
    jobs = []
    for number, words in enumerate(combinations):
        own = folder / str(number)
        typed = [one.input_line or "" for one in parse_overrides(words) if not _is_output(one)]
        jobs.append(JobSpec(name=f"{verb}-{number}", folder=own, words=(*verb.split(), *typed, word("output", own))))
    log.info("%d jobs: %s", len(jobs), folder)
    outcomes = run_jobs(
        jobs, remedy=f"classifier-training train resume=RUN, with a run below {folder}", launcher=launcher
    )
    return CommandResults([CommandResult(job, outcomes[job.name]) for job in jobs])


def _is_output(override: Override) -> bool:
    return override.key_or_group == "output"


class _Followed:
    """A log that is printed while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0

    def print_new(self) -> None:
        """Print what was added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                added = file.read()
        except FileNotFoundError:
            return
        self._position += len(added)
        if added:
            sys.stderr.write(added.decode("utf-8", "replace"))
            sys.stderr.flush()


@contextlib.contextmanager
def _signals_kept() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of being ended by them; yields their numbers."""
    received: list[int] = []

    def keep(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
