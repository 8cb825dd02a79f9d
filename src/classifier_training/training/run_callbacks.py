"""Lightning callbacks of every run: rows of metrics, frozen stages, and the signals and requests that end it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, Timer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.processes import process_rank
from classifier_training.core.run_dir import write_csv
from classifier_training.core.runtime import DETAIL, command, peak_memory_mb, setting
from classifier_training.core.types import VAL, epoch_name
from classifier_training.models.stages import freeze_stages, split_stages
from classifier_training.training.checkpoints import is_step_end

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType, TracebackType

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import Batch
    from classifier_training.training.checkpoints import RunCheckpoints
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.transfer import Transfer

log = logging.getLogger(__name__)

Row = dict[str, float]


class EpochRecorder(Checkpoint):
    """Collects the figures of every epoch and writes them down as a table.

    A `Checkpoint` for Lightning, which calls those after the module's own hooks, when an epoch's figures are known. The
    rows travel in the checkpoint, so a resumed run has the history of an uninterrupted one.

    Args:
        path: metrics.csv.
    """

    def __init__(self, path: Path) -> None:
        self.rows: list[Row] = []
        self._path = path
        self._num_images = 0
        self._started = 0.0
        self._train_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and what the epoch has counted."""
        return {
            "rows": self.rows,
            "num_images": self._num_images,
            "train_seconds": self._train_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the rows of the interrupted run."""
        self.rows = list(state_dict["rows"])
        self._num_images = state_dict.get("num_images", 0)
        self._train_seconds = state_dict.get("train_seconds", 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue the clock in the middle of an epoch."""
        self._started = time.perf_counter() - self._train_seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._num_images = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the images that were trained on."""
        self._num_images += len(batch.targets) * trainer.world_size
        self._train_seconds = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: ClassifierModule) -> None:  # type: ignore[override]
        """Add the epoch's row and write the table."""
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row |= pl_module.training_metrics()
        if VAL in pl_module.results:
            row |= {f"{VAL}/{name}": value for name, value in pl_module.results[VAL].metrics.items()}
        row["epoch_seconds"] = time.perf_counter() - self._started
        row["images_per_second"] = self._num_images / max(self._train_seconds, 1e-9)
        row["peak_memory_mb"] = _peak_memory_mb(pl_module.device)
        self.add(row)

    def add(self, row: Row) -> None:
        """Add a row and write the table."""
        self.rows.append(row)
        header = list(dict.fromkeys(name for row in self.rows for name in row))
        write_csv(self._path, header, ([_shown(row.get(name)) for name in header] for row in self.rows))


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_memory_mb()


def _shown(value: float | None) -> str | int:
    if value is None:
        return ""
    return value if isinstance(value, int) else f"{value:.6g}"


class StageFreezing(pl.Callback):
    """Freezes the stages of the network that an epoch leaves alone.

    The optimizer holds all parameters from the start. Those without gradients it passes over, weight decay included,
    and a frozen one has none: it never learned.

    Args:
        transfer: says how many stages are frozen in an epoch.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._num_frozen: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: ClassifierModule) -> None:  # type: ignore[override]
        """Freeze when a run is resumed in the middle of an epoch, whose start Lightning then leaves out."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: ClassifierModule) -> None:  # type: ignore[override]
        """Freeze, and say so when it changes."""
        stages = split_stages(pl_module.network)
        num_frozen = self._transfer.num_frozen(trainer.current_epoch, len(stages))
        freeze_stages(pl_module.network, stages, num_frozen, freezes_statistics=self._transfer.freezes_statistics)
        if num_frozen != self._num_frozen:
            self._num_frozen = num_frozen
            first, last = stages[num_frozen].name, stages[-1].name
            trained = f"{last} is trained" if first == last else f"the stages from {first} to {last} are trained"
            log.info(
                "%s: %d of %d stages are frozen; %s",
                epoch_name(trainer.current_epoch), num_frozen, len(stages), trained, extra=DETAIL,
            )  # fmt: skip


class StopRequest(pl.Callback):
    """Ends training after the epoch in which the run's stop.request appeared, as early stopping does.

    The first process looks for the file, and all of them stop after the same epoch.

    Args:
        run_dir: the run.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._path = run_dir.stop_request

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for the file."""
        is_there = trainer.is_global_zero and self._path.exists()
        if trainer.strategy.reduce_boolean_decision(is_there, all=False):
            trainer.should_stop = True


class SharedTimer(Timer):
    """Lightning's timer for several processes, which agree in the step's all-reduce that the time is over."""

    @property
    def state_key(self) -> str:
        """That of Lightning's own."""
        return Timer.__qualname__

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ClassifierModule, *_: object) -> None:  # type: ignore[override]
        """Stop when a process has said so in a step, and say so in the next one."""
        pl_module.wishes.out_of_time = (self.time_remaining() or 0.0) <= 0
        if pl_module.wishes.any_out_of_time:
            trainer.should_stop = True


HEARD = (signal.SIGINT, signal.SIGTERM)

WORDS = b"stopping: the run is saved at the end of this step; a second signal leaves at once\n"


class Interrupts(Checkpoint):
    """Ends a run at a boundary where it can be saved. Use it in a `with` block around training, and as a callback.

    A `Checkpoint` for Lightning, so that it comes after those that keep the run. Where validation takes long it is left
    in the middle, and the run is resumed from before the epoch's last step. Several processes agree in a step's
    all-reduce, or at an epoch's end, to leave together; rank 0 saves, and leaves validation.

    Args:
        run_dir: the run, for the command that resumes it.
        checkpoints: saves it.
    """

    def __init__(self, run_dir: RunDir, checkpoints: RunCheckpoints) -> None:
        self._run_dir = run_dir
        self._checkpoints = checkpoints
        self._received: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        # Python lets only the main thread meet signals; in another one they stay the program's own business.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in HEARD}
            self._listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Lightning listens for SIGTERM too, until training starts.
        if isinstance(error, SIGTERMException) or (self._received is not None and kind is None):
            raise InterruptedRunError(self._received or signal.SIGTERM, self._remedy()) from error

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen in Lightning's place."""
        self._listen()

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: ClassifierModule,  # type: ignore[override]
        batch: object,
        batch_idx: int,
    ) -> None:
        """Let the step tell the other processes of a signal."""
        pl_module.wishes.interrupted = self._received is not None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: ClassifierModule,  # type: ignore[override]
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save and stop, if a signal has come."""
        asked = pl_module.wishes.any_interrupted if trainer.world_size > 1 else self._received is not None
        if asked and is_step_end(trainer, batch_idx):
            if trainer.is_global_zero:
                self._checkpoints.save_step(trainer, pl_module)
            self._stop()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: ClassifierModule,  # type: ignore[override]
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave a long validation."""
        asked = self._received is not None or pl_module.wishes.any_interrupted
        # The others, who are in their own part of it, find the connection closed.
        if asked and trainer.is_global_zero and self._checkpoints.leave_validation(trainer):
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: ClassifierModule) -> None:  # type: ignore[override]
        """Save and stop, if a signal has come."""
        wishes = pl_module.wishes
        wishes.interrupted = self._received is not None
        if trainer.world_size > 1:
            wishes.agree_at_once(pl_module.device)
        if wishes.any_interrupted if trainer.world_size > 1 else wishes.interrupted:
            if trainer.is_global_zero:
                self._checkpoints.flush(trainer)
            self._stop()

    def _listen(self) -> None:
        if self._before:
            for number in HEARD:
                signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        rank = process_rank()
        if self._received is not None:
            if number == self._received and not rank.is_alone:
                return  # a scheduler sends a signal to all processes, and torchrun's agent sends it again
            os._exit(128 + number)
        self._received = number
        if rank.leads:
            # Not by a logger: this may have interrupted one that holds its lock.
            os.write(2, WORDS)

    def _stop(self) -> None:
        raise InterruptedRunError(self._received or signal.SIGTERM, self._remedy())

    def _remedy(self) -> str:
        if self._run_dir.resumable:
            return f"{command('train')} {setting('resume', self._run_dir.path)}"
        return f"{command('train')} {setting('resume', self._run_dir.path)}, from the beginning: nothing was saved yet"
