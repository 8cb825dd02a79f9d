"""Several processes that train one run: the first leads and starts the others, which end with it.

A follower is our own `train resume=RUN` with a word of who it is in its environment. It reads what the leader has
written of the run, joins it for the training itself, and writes nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.processes import Follower, Share, following, own_share
from classifier_training.core.runtime import command, num_cores, setting, share_of_cores
from classifier_training.workflows.many_runs.jobs import failure_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.device import Device

log = logging.getLogger(__name__)

MEET_SECONDS = 600.0
"""How long to wait for each other: a follower reads the data anew, and the leader may be painting."""
GRACE_SECONDS = 15.0
"""How long an error may take to reach the leader by itself, once a follower is gone."""
LOOK_SECONDS = 0.5


class Team:
    """The processes of one run; see `sharing`.

    Args:
        run_dir: the run.
        device: how many there are, and where they compute.
        checkpoint: to resume from; None for the beginning.
    """

    def __init__(self, run_dir: RunDir, device: Device, checkpoint: Path | None) -> None:
        told = following()
        self._run_dir = run_dir
        self._device = device
        self._checkpoint = checkpoint
        self._port = told.port if told else _free_port() if device.num_devices > 1 else 0
        self._followers: list[_Process] = []
        self._over = threading.Event()
        self.share = own_share(device.num_devices)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.share.rank == 0

    @property
    def is_one(self) -> bool:
        """Whether there is this process alone."""
        return self.share.num_ranks == 1

    def callbacks(self, chosen: Sequence[pl.Callback]) -> list[pl.Callback]:
        """Return those of the callbacks that this process needs: a follower neither writes nor shows anything."""
        if self.leads:
            return list(chosen)
        return [*(item for item in chosen if not isinstance(item, (Checkpoint, ProgressBar))), _Deaf()]

    def strategy(self, *, freezes: bool) -> DDPStrategy | str:
        """Return Lightning's strategy.

        Args:
            freezes: whether some layers get no gradient.
        """
        if self.is_one:
            return "auto"
        return DDPStrategy(
            cluster_environment=_Meeting(self.share.rank, self._port),
            timeout=timedelta(seconds=MEET_SECONDS),
            find_unused_parameters=freezes,
        )

    @contextmanager
    def sharing(self, datamodule: ImageFolderDataModule) -> Iterator[None]:
        """Train together inside the block, each process with its share of every batch.

        Raises:
            CheckFailedError: when another process ends before its time, with its last words.
        """
        if self.is_one:
            yield
            return
        datamodule.share = self.share
        num_threads = torch.get_num_threads()
        if self._device.accelerator == "cpu":
            torch.set_num_threads(self._cores)
        if self.leads:
            self._start()
        threading.Thread(target=self._watch if self.leads else _end_with_leader, daemon=True).start()
        lost: list[_Process] = []
        try:
            yield
        except Exception as error:
            lost = self._wait_for_lost()
            if lost:
                raise self._lost(lost) from error
            raise
        finally:
            self._over.set()
            if distributed.is_initialized():
                distributed.destroy_process_group()
            self._end(but_logs_of=lost)
            torch.set_num_threads(num_threads)
            datamodule.share = Share()

    @property
    def _cores(self) -> int:
        return max(1, num_cores() // self.share.num_ranks) if self.leads else num_cores()

    def _start(self) -> None:
        checkpoint = str(self._checkpoint) if self._checkpoint else None
        for rank in range(1, self.share.num_ranks):
            told = Follower(rank, self.share.num_ranks, os.getpid(), self._port, checkpoint)
            written = self._run_dir.process_log(rank)
            with written.open("wb") as file:
                process = subprocess.Popen(  # noqa: S603 - our own program
                    [sys.executable, "-m", "classifier_training", "train", f"resume={self._run_dir.path}"],
                    stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                    env={**os.environ, **share_of_cores(self._cores), **told.environment()},
                )  # fmt: skip
            self._followers.append(_Process(rank, process, written))
        log.info("processes: %d, this one leads; the others are starting", self.share.num_ranks)

    def _watch(self) -> None:
        """End this process when another is lost and torch does not notice, as with NCCL; in a thread."""
        while not self._over.wait(LOOK_SECONDS):
            lost = self._gone()
            if lost and not self._over.wait(GRACE_SECONDS):
                log.error("%s", self._lost(lost))
                self._end(but_logs_of=lost)
                os._exit(CheckFailedError.exit_code)

    def _gone(self) -> list[_Process]:
        return [follower for follower in self._followers if follower.process.poll() not in (None, 0)]

    def _wait_for_lost(self) -> list[_Process]:
        """Return the processes that have ended badly; an error here may be the first sign that one is about to."""
        deadline = time.monotonic() + 1.0
        while not (lost := self._gone()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return lost

    def _end(self, *, but_logs_of: Sequence[_Process]) -> None:
        """End the others, who have nothing to finish, and leave no log of those that did as they should."""
        for follower in self._followers:
            follower.process.kill()
            follower.process.wait()
            if follower not in but_logs_of:
                follower.log.unlink(missing_ok=True)
        self._followers = []

    def _lost(self, lost: Sequence[_Process]) -> CheckFailedError:
        words = "; ".join(
            f"process {one.rank} of {self.share.num_ranks}: "
            f"{failure_words(one.process.returncode, one.log.read_text(encoding='utf-8', errors='replace'))}"
            for one in lost
        )
        return CheckFailedError(
            words,
            "processes that all stay to the end",
            f"see {lost[0].log}; resume with {command('train')} {setting('resume', self._run_dir.path)}",
        )


@dataclass(frozen=True)
class _Process:
    rank: int
    process: subprocess.Popen[bytes] = field(compare=False)
    log: Path


class _Meeting(LightningEnvironment):
    """Where the processes meet; we start them ourselves."""

    def __init__(self, rank: int, port: int) -> None:
        super().__init__()
        self._rank = rank
        self._main_port = port

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


class _Deaf(pl.Callback):
    """Leaves signals to the leader, with whom this process ends: a scheduler sends them to all."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _end_with_leader() -> None:
    """End this process when the one that started it is gone; in a thread."""
    told = following()
    while told is not None and os.getppid() == told.leader:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
