"""Ctrl-C and SIGTERM: the run is saved at the end of the step and ends with the exit code that a user expects."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.runtime import command, setting
from classifier_training.training.checkpoints import is_step_end

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    import pytorch_lightning as pl

    from classifier_training.core.run_dir import RunDir
    from classifier_training.training.checkpoints import RunCheckpoints
    from classifier_training.training.module import ClassifierModule

HEARD = (signal.SIGINT, signal.SIGTERM)

WORDS = b"stopping: the run is saved at the end of this step; a second signal leaves at once\n"


class Interrupts(Checkpoint):
    """Ends a run at a boundary where it can be saved. Use it in a `with` block around training, and as a callback.

    A `Checkpoint` for Lightning, so that it comes after those that keep the run. Where validation takes long it is left
    in the middle, and the run is resumed from before the epoch's last step.

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

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Listen in Lightning's place."""
        self._listen()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: ClassifierModule,  # type: ignore[override]
        outputs: object,  # noqa: ARG002
        batch: object,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Save and stop, if a signal has come."""
        if self._received is not None and is_step_end(trainer, batch_idx):
            self._checkpoints.save_step(trainer, pl_module)
            self._stop()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: object,  # noqa: ARG002
        batch: object,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Leave a long validation."""
        if self._received is not None and self._checkpoints.leave_validation(trainer):
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Save and stop, if a signal has come."""
        if self._received is not None:
            self._checkpoints.flush(trainer)
            self._stop()

    def _listen(self) -> None:
        if self._before:
            for number in HEARD:
                signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            os._exit(128 + number)
        self._received = number
        # Not by a logger: this may have interrupted one that holds its lock.
        os.write(2, WORDS)

    def _stop(self) -> None:
        assert self._received is not None
        raise InterruptedRunError(self._received, self._remedy())

    def _remedy(self) -> str:
        if self._run_dir.resumable:
            return f"{command('train')} {setting('resume', self._run_dir.path)}"
        return f"{command('train')} {setting('resume', self._run_dir.path)}, from the beginning: nothing was saved yet"
