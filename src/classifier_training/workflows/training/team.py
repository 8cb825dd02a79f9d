"""The processes that torchrun has started for one run: rank 0 leads, the others join it for training.

Rank 0 reads, decides and writes alone, as a run of one process does. The others wait for the run folder, read it as a
resumed run, share the batches, and end with rank 0. Messages travel over a group of their own (gloo), whose connections
close with a process, so that nobody waits for one that is gone.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroupGloo
from torch.distributed.rendezvous import rendezvous

from classifier_training.conf.compose import compose
from classifier_training.conf.overrides import quoted
from classifier_training.core.errors import CheckFailedError, InterruptedRunError, UserError, reason_of
from classifier_training.core.processes import Share
from classifier_training.core.register import VERB, entry
from classifier_training.core.run_dir import RunDir, make_folder
from classifier_training.core.runtime import command, setting, versions
from classifier_training.training.run_callbacks import Interrupts, SharedTimer
from classifier_training.workflows.training.heartbeat import SILENT_SECONDS, Heartbeat
from classifier_training.workflows.training.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytorch_lightning as pl

    from classifier_training.core.processes import Rank
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.device import Device
    from classifier_training.workflows.training.start import Start

log = logging.getLogger(__name__)

MEET_SECONDS = 600.0
"""How long processes that are all running wait for each other."""
WAIT_SECONDS = 7 * 24 * 3600.0
"""How long one waits for a message: rank 0 may be fitting a probe, or exporting at the end."""
LEAVE_SECONDS = 3.0
"""How long rank 0 tries to say how the run has ended."""
SEEN_SECONDS = 5.0
"""How long a shared folder may take to show a new file on another node."""
SET_PDEATHSIG = 1

RECORDED = ("classifier-training", "torch", "pytorch-lightning")


class Team:
    """The processes of one run; see `joined`.

    Args:
        rank: this process.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        _end_with_parent()
        store, *_ = next(rendezvous("env://", rank.rank, rank.num_ranks, timeout=_seconds(MEET_SECONDS)))
        self._attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"classifier_training/{self._attempt}", store)
        self._store.set(f"started/{rank.rank}", "")
        self._store.wait([f"started/{other}" for other in range(rank.num_ranks)], _seconds(MEET_SECONDS))
        self._group: Any = ProcessGroupGloo(self._store, rank.rank, rank.num_ranks, timeout=_seconds(WAIT_SECONDS))
        self._heartbeat = ExitStack()
        self._run_dir: RunDir | None = None
        self._checkpoint: Path | None = None
        self._epochs_done = 0

    @property
    def leads(self) -> bool:
        """Whether this process is the one that decides and writes."""
        return self.rank.leads

    @property
    def checkpoint(self) -> Path | None:
        """What rank 0 resumes from, for the other processes; None for the beginning."""
        return self._checkpoint

    @property
    def epochs_done(self) -> int:
        """Epochs that are behind that checkpoint."""
        return self._epochs_done

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, rank after rank."""
        if self.leads:
            found = [value, *(self._receive(other) for other in self._others)]
            self._tell(found)
            return found
        self._send(value, 0)
        told: list[Any] = self._receive(0)
        return told

    def check(self, settings: TrainSettings) -> None:
        """Refuse processes that would not train one run, on all of them alike.

        Raises:
            UserError: on rank 0.
            SystemExit: on the others, which say nothing.
        """
        found = self.gather(
            {
                "config": settings.config,
                "versions": {name: value for name, value in versions().items() if name in RECORDED},
                "num_local": self.rank.num_local,
                "node": self.rank.node,
            }
        )
        error = mismatch(found)
        if error is None and self._attempt != "0" and not settings.resume:
            error = UserError(
                "torchrun has started the processes again (--max-restarts), and they would train from the beginning",
                "a run that is resumed",
                f"{command('train')} resume=RUN, which torchrun may start as often as you like",
            )
        if error is None and len({one["node"] for one in found}) > 1:
            error = self._unshared(Path(settings.resume or settings.output))
        if error is not None:
            if self.leads:
                raise error
            self._leave()

    def follow(self) -> TrainSettings:
        """Wait for the run to be prepared by rank 0; returns its settings, those of a resumed run.

        Raises:
            SystemExit: when there is nothing to train, or rank 0 could not begin.
        """
        told = self._hear()
        self._run_dir = RunDir(Path(told["run"]))
        self._checkpoint = Path(told["checkpoint"]) if told["checkpoint"] else None
        self._epochs_done = int(told["epochs_done"])
        descriptor = os.open(self._run_dir.process_log(self.rank.rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for number in (1, 2):
            os.dup2(descriptor, number)
        train = entry(VERB, "train")
        return TrainSettings(**compose(train, [f"resume={quoted(self._run_dir.path, as_text=True)}"]))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let the first process of each node do the block before the others of the node, which wait for it."""
        first, num = self.rank.rank - self.rank.local_rank, self.rank.num_local
        if self.rank.local_rank:
            self._store.wait([f"ready/{first}"], _seconds(WAIT_SECONDS))
        yield
        if not self.rank.local_rank and num > 1:
            self._store.set(f"ready/{first}", "")

    def callbacks(self, chosen: Sequence[pl.Callback], max_time: timedelta | None) -> list[pl.Callback]:
        """Return those of the callbacks that this process needs: only rank 0 writes and shows anything.

        Args:
            chosen: those of the run.
            max_time: after which training stops, if it is limited.
        """
        timer = [] if max_time is None else [SharedTimer(max_time)]
        if self.leads:
            return [*chosen, *timer]
        writes = (Checkpoint, ProgressBar)
        return [*(item for item in chosen if isinstance(item, Interrupts) or not isinstance(item, writes)), *timer]

    def trainer_settings(self, *, freezes: bool) -> dict[str, Any]:
        """Return what Lightning's trainer must know of the processes.

        Args:
            freezes: whether some layers get no gradient.
        """
        strategy = DDPStrategy(
            cluster_environment=TorchElasticEnvironment(),
            timeout=_seconds(MEET_SECONDS),
            find_unused_parameters=freezes,
            # The step shares the running statistics; DDP would overwrite them with those of rank 0.
            broadcast_buffers=False,
        )
        num_nodes = self.rank.num_ranks // self.rank.num_local
        return {"devices": self.rank.num_local, "num_nodes": num_nodes, "strategy": strategy}

    @contextmanager
    def training(
        self, run_dir: RunDir, device: Device, start: Start, datamodule: ImageFolderDataModule
    ) -> Iterator[None]:
        """Train together inside the block, each process with its share of every batch.

        Args:
            run_dir: the run.
            device: where this process computes.
            start: where it begins, or is resumed.
            datamodule: loads the images.

        Raises:
            UserError: when the processes compute on different kinds of devices.
            CheckFailedError: when another process has ended before its time, with its last words.
            SystemExit: on the other processes, when rank 0 has ended.
        """
        if self.leads:
            self._run_dir = run_dir
            checkpoint = start.checkpoint and str(start.checkpoint)
            told = {"run": str(run_dir.path.absolute()), "checkpoint": checkpoint, "epochs_done": start.epochs_done}
            self._tell(told)
        datamodule.share = self.rank.share
        try:
            kinds = self.gather(device.accelerator)
            _refuse_different(kinds)
            log.info("processes: %d train together", self.rank.num_ranks)
            yield
        except Exception as error:
            is_lost = isinstance(error, RuntimeError) and _is_connection_lost(error)
            if not (is_lost or self.leads or isinstance(error, InterruptedRunError)):
                # Into this process's log, which rank 0 quotes once it finds the connection closed.
                traceback.print_exc()
                log.error("%s", error if isinstance(error, UserError) else reason_of(error))  # noqa: TRY400
            self._end_training()
            if not self.leads:
                self._leave()
            if is_lost:
                # torchrun's agent is about to send it, and what is to be said now comes first.
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                raise self._lost() from error
            raise
        finally:
            self._end_training()
            datamodule.share = Share()
        if not self.leads:
            self._leave()
        for other in self._others:
            run_dir.process_log(other).unlink(missing_ok=True)

    def __enter__(self) -> Team:
        num_nodes = self.rank.num_ranks // self.rank.num_local
        if num_nodes > 1 and not self.rank.local_rank:
            self._heartbeat.enter_context(Heartbeat(self._store, self.rank.node, num_nodes, self._silent))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        """Tell the others how the run has ended; they end alike."""
        self._heartbeat.close()
        if self.leads:
            code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", int(kind is not None))
            with suppress(RuntimeError):
                self._tell({"ended": code if isinstance(code, int) else 1}, seconds=LEAVE_SECONDS)

    @property
    def _others(self) -> range:
        return range(1, self.rank.num_ranks)

    def _send(self, value: Any, *to: int, seconds: float = WAIT_SECONDS) -> None:
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length, deadline = torch.tensor([len(data)]), time.monotonic() + seconds
        for sent in [self._group.send([part], rank, 0) for rank in to for part in (length, data)]:
            sent.wait(_seconds(max(0.1, deadline - time.monotonic())))

    def _receive(self, sender: int) -> Any:
        length = torch.zeros(1, dtype=torch.int64)
        self._group.recv([length], sender, 0).wait()
        data = torch.empty(int(length), dtype=torch.uint8)
        self._group.recv([data], sender, 0).wait()
        return json.loads(bytes(data.numpy()))

    def _tell(self, value: Any, seconds: float = WAIT_SECONDS) -> None:
        self._send(value, *self._others, seconds=seconds)

    def _hear(self) -> dict[str, Any]:
        """Return what rank 0 says next.

        Raises:
            SystemExit: when it has ended.
        """
        try:
            told: dict[str, Any] = self._receive(0)
        except RuntimeError as error:
            raise SystemExit(CheckFailedError.exit_code) from error
        if "ended" not in told:
            return told
        # It is the first to end, so that torchrun reports it, and not a process that ends with it.
        with suppress(RuntimeError):
            self._receive(0)
        raise SystemExit(told["ended"])

    def _leave(self) -> NoReturn:
        """End as rank 0 ends, which is still exporting, or has saved the run."""
        self._hear()
        raise AssertionError

    def _end_training(self) -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _unshared(self, folder: Path) -> UserError | None:
        """Return the error for a folder that not all nodes share: a file of rank 0 is looked for by the others."""
        given = None
        if self.leads:
            make_folder(folder)
            given = str(folder.absolute() / f".shared-{secrets.token_hex(8)}.tmp")
            Path(given).write_text(given, encoding="utf-8")
        path = Path(self.gather(given)[0])
        deadline = time.monotonic() + SEEN_SECONDS
        while not (seen := path.is_file() and path.read_text(encoding="utf-8") == str(path)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        found = self.gather(seen)
        if self.leads:
            path.unlink()
        if all(found):
            return None
        blind = [str(rank) for rank, seen in enumerate(found) if not seen]
        return UserError(
            f"{folder.absolute()}: {'process' if len(blind) == 1 else 'processes'} {', '.join(blind)} of "
            f"{len(found)}, on another node, cannot see what process 0 writes there",
            "a folder for run folders that all nodes share, under the same path",
            "output=/a/shared/folder",
        )

    def _silent(self, nodes: Sequence[int]) -> None:
        """End this process, which may wait for a silent node for ever: the other processes end with it."""
        run = "RUN" if self._run_dir is None else self._run_dir.path
        named = ", ".join(map(str, nodes))
        error = CheckFailedError(
            f"nothing was heard from node {named} for {SILENT_SECONDS:.0f} s: it is off, or the link to it is cut",
            "nodes that all stay to the end",
            f"{command('train')} {setting('resume', run)}, on nodes that reach each other",
        )
        log.error("%s", error)
        os._exit(error.exit_code)

    def _lost(self) -> CheckFailedError:
        assert self._run_dir is not None
        said = []
        for other in self._others:
            path = self._run_dir.process_log(other)
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
            errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            if not errors and any(line.startswith("Traceback") for line in lines):
                errors = [line for line in lines if line.strip()]
            said += [f"process {other}: {line}" for line in errors[-1:]]
        return CheckFailedError(
            "; ".join(said) or f"one of the {self.rank.num_ranks} processes that train this run has ended",
            "processes that all stay to the end",
            f"see {self._run_dir.process_log(1).with_name('process-*.log')}; resume with {command('train')} "
            f"{setting('resume', self._run_dir.path)}",
        )


def mismatch(processes: Sequence[Mapping[str, Any]]) -> UserError | None:
    """Return the error for processes that would not train one run together; None when they would.

    Args:
        processes: config, versions and num_local of each, by its rank.
    """
    first = processes[0]
    if all(one["config"]["trainer"]["num_devices"] == 1 for one in processes):
        return UserError(
            f"torchrun started {len(processes)} processes, and each would train a run of its own",
            "processes that train one run together",
            f"{command('train')} … trainer=ddp, or no torchrun",
        )
    for rank, one in enumerate(processes):
        for key, mine, other in _differences(first["config"], one["config"]):
            return UserError(
                f"process 0 was started with {key}={mine}, process {rank} with {key}={other}",
                "the same command on all nodes",
                "start all processes with the same settings; paths count as settings",
            )
        if one["num_local"] != first["num_local"]:
            return _differ("--nproc-per-node", [one["num_local"] for one in processes], "torchrun --nproc-per-node=…")
        for key, mine, other in _differences(first["versions"], one["versions"]):
            return _differ(f"the version of {key}", [mine, other], "install the same packages on all nodes")
    return None


def _refuse_different(accelerators: Sequence[str]) -> None:
    if len(set(accelerators)) > 1:
        raise _differ("the device", accelerators, "trainer.accelerator=cpu, or nodes of one kind")


def _differ(what: str, values: Sequence[Any], remedy: str) -> UserError:
    listed = ", ".join(str(value) for value in dict.fromkeys(values))
    return UserError(f"{what} differs between the processes: {listed}", "the same on all nodes", remedy)


def _differences(one: Mapping[str, Any], two: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in {**one, **two}:
        mine, other = one.get(name), two.get(name)
        if isinstance(mine, dict) and isinstance(other, dict):
            yield from _differences(mine, other, f"{above}{name}.")
        elif mine != other:
            yield f"{above}{name}", mine, other


def _is_connection_lost(error: RuntimeError) -> bool:
    """Whether torch reports that another process is gone; gloo raises plain RuntimeErrors."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error).casefold()


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when torchrun's agent is killed, which then cannot end its processes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGTERM)


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)
