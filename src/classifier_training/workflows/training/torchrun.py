"""torchrun, started by `train` itself where several devices of this machine are to train a run."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.processes import is_torchrun
from classifier_training.core.run_dir import RunDir
from classifier_training.core.runtime import THREAD_VARIABLES, command, num_cores, setting
from classifier_training.workflows.many_runs.launch.base import Node, failure_words
from classifier_training.workflows.training.start import refuse_several, refuse_unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from classifier_training.workflows.training.settings import TrainSettings

log = logging.getLogger(__name__)

LAUNCHED_VARIABLE = "CLASSIFIER_TRAINING_LAUNCHED"
"""Names the folder by which `launch` and its processes know of each other."""

SETTINGS, RUN = "settings.pickle", "run"

SHUTDOWN_SECONDS = 50
"""How long torchrun waits after SIGTERM for the step to end and the run to be saved, before SIGKILL; it waits 30 s."""


@dataclass(frozen=True)
class Launched:
    """A run that several processes have trained; rank 0 has shown its results.

    Args:
        exit_code: of the run.
        folder: of the run; None where it has none.
    """

    exit_code: int
    folder: Path | None

    @property
    def run_dir(self) -> RunDir:
        """Where everything is.

        Raises:
            CheckFailedError: when the run has not come to its end.
        """
        if self.folder is None or self.exit_code not in (0, 1) or not RunDir(self.folder).result.exists():
            remedy = "see the messages above"
            if self.folder is not None:
                remedy += f"; resume with {command('train')} {setting('resume', self.folder)}"
            raise CheckFailedError(f"the run has ended with exit code {self.exit_code}", "a finished run", remedy)
        return RunDir(self.folder)

    def __str__(self) -> str:
        return ""


def num_to_launch(settings: TrainSettings) -> int:
    """Return how many processes are to be started for a run; 0 where this one trains it, alone or as torchrun's.

    Raises:
        UserError: when there are fewer devices than were asked for, or several cannot train the run.
    """
    number, accelerator = settings.trainer.num_devices, settings.trainer.accelerator
    num_nodes = Node.of_process().num_nodes
    if is_torchrun() or (number == num_nodes == 1):
        return 0
    from classifier_training.training.device import count_devices

    if number == 1:
        raise UserError(
            f"launcher.nodes={num_nodes}: the run has one process, on one machine",
            "a run that several processes share",
            "trainer=ddp, or leave launcher.nodes out",
        )
    number = count_devices(number, accelerator, alone=num_nodes == 1)
    if number * num_nodes == 1:
        return 0
    refuse_several(settings, number * num_nodes)
    refuse_unavailable(settings)
    return number


def launched_settings() -> TrainSettings | None:
    """Return the settings of the run that this process was started for by `launch`; None where it was not."""
    folder = os.environ.get(LAUNCHED_VARIABLE)
    if folder is None or not is_torchrun():
        return None
    with (Path(folder) / SETTINGS).open("rb") as file:
        settings: TrainSettings = pickle.load(file)  # noqa: S301 - this program wrote it, into a folder of this user
    return settings


def tell_launcher(run_dir: RunDir) -> None:
    """Tell the process that started this one which folder the run has."""
    folder = os.environ.get(LAUNCHED_VARIABLE)
    if folder is not None and is_torchrun():
        (Path(folder) / RUN).write_text(str(run_dir.path.absolute()), encoding="utf-8")


def launch(settings: TrainSettings, number: int) -> Launched:
    """Train a run with several processes, by torchrun; returns what became of it.

    They are those of this machine, or of all machines of a job. The output of rank 0 goes to the screen, that of the
    others into the run folder. SIGINT and SIGTERM are passed on.

    Args:
        settings: of the run.
        number: of the processes of this machine.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it says of processes that fail is said below. Each of its modules has a level of its own.
    for name in [*logging.root.manager.loggerDict]:
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with TemporaryDirectory(prefix="classifier-training-") as folder, _signals_restored():
        with (Path(folder) / SETTINGS).open("wb") as file:
            pickle.dump(settings, file)
        threads = dict.fromkeys(THREAD_VARIABLES, str(max(1, num_cores() // number)))
        wait = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS)}
        with _environment({**threads, **wait, **os.environ, LAUNCHED_VARIABLE: folder}):
            node = Node.of_process()
            is_one = node.num_nodes == 1
            config = LaunchConfig(
                min_nodes=node.num_nodes, max_nodes=node.num_nodes, nproc_per_node=number, max_restarts=0,
                # The nodes of one run know each other by it.
                run_id=uuid4().hex if is_one else f"port {node.port}",
                rdzv_backend="c10d" if is_one else "static", rdzv_configs={"rank": node.rank},
                rdzv_endpoint=f"{node.address}:{node.port}", local_addr=node.address if is_one else None,
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )  # fmt: skip
            run, code = Path(folder) / RUN, 0
            try:
                elastic_launch(config, sys.executable)("-m", "classifier_training", "train")
            except ChildFailedError as error:
                failed = {rank: failure.exitcode for rank, failure in error.failures.items()}
                code = _exit_code(failed, number * node.num_nodes, run)
            except SignalException as error:
                code = 128 + error.sigval
        return Launched(code, _read(run))


def _exit_code(failed: Mapping[int, int], number: int, run: Path) -> int:
    """Return the exit code of a run by those of its processes; names those that could not say what happened."""
    folder, said = _read(run), []
    speaks = failed.get(0, -1) > 0
    # Where one was killed, the others have ended with it, or were ended by the agent.
    killed = {rank: code for rank, code in failed.items() if code < 0 and code != -signal.SIGTERM}
    for rank, code in (killed or failed).items():
        if code < 0 or not speaks:
            path = RunDir(folder).process_log(rank) if folder else None
            text = path.read_text(encoding="utf-8", errors="replace") if path and path.exists() else ""
            said.append(f"process {rank} of {number}: {failure_words(code, text)}")
    if said:
        remedy = f"{command('train')} {setting('resume', folder)}" if folder else "start it again"
        log.error("%s", CheckFailedError("; ".join(said), "processes that all stay to the end", remedy))
    return failed[0] if speaks else CheckFailedError.exit_code


def _read(run: Path) -> Path | None:
    return Path(run.read_text(encoding="utf-8")) if run.exists() else None


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Put this process's signal handlers back, which torchrun replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
