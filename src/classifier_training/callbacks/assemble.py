"""What Lightning calls: callbacks in the order they need, the bridge to the observers, and the progress display."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from classifier_training.callbacks.lightning import without_checkpoint
from classifier_training.callbacks.observer import EpochEnd, Observer, metric_words
from classifier_training.core.display import NotebookBar
from classifier_training.core.runtime import console, in_notebook
from classifier_training.core.types import VAL, epoch_name
from classifier_training.training.checkpoints import RunCheckpoints, is_last_epoch
from classifier_training.training.run_callbacks import EpochRecorder, Interrupts, StopRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.callbacks.observer import RunContext
    from classifier_training.core.types import Batch
    from classifier_training.training.module import ClassifierModule

log = logging.getLogger(__name__)


class EpochProgress(ProgressBar, Observer):
    """Logs a line for every epoch; on a terminal and in a notebook a bar shows how far training is.

    Args:
        monitor: metric in the lines.
    """

    def __init__(self, monitor: str) -> None:
        super().__init__()
        self._monitor = monitor
        self._started = time.monotonic()
        self._first_epoch: int | None = None
        self._epoch_started = 0.0
        self._num_images = 0
        self._bar: Progress | None = None
        self._notebook_bar: NotebookBar | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar if the screen is a terminal."""
        self._started = self._epoch_started = time.monotonic()
        self._first_epoch = trainer.current_epoch
        if in_notebook():
            self._notebook_bar = NotebookBar("training")
        elif console().is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[speed]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                console=console(),
                transient=True,
            )
            self._task = self._bar.add_task("training", total=None, speed="")
            self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting images."""
        self._epoch_started = time.monotonic()
        self._num_images = 0
        steps = int(trainer.num_training_batches)
        words = f"{epoch_name(trainer.current_epoch)}/{self._max_epochs}"
        if self._notebook_bar is not None:
            self._notebook_bar.words = words
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=words,
                total=steps * self._max_epochs,
                completed=steps * trainer.current_epoch,
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        self._num_images += len(batch.targets)
        if self._notebook_bar is not None:
            steps = int(trainer.num_training_batches)
            self._notebook_bar.update(
                steps * trainer.current_epoch + batch_idx + 1,
                steps * self._max_epochs,
                first=steps * (self._first_epoch or 0),
            )
        if self._bar is not None:
            speed = self._num_images / max(time.monotonic() - self._epoch_started, 1e-9)
            self._bar.update(self._task, advance=1, speed=f"{speed:,.0f} images/s")

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:
        """Log the epoch's line, except for a linear probe, which has no epochs and logs its own."""
        if self._first_epoch is None:
            return
        row = end.rows[-1]
        done = end.epoch + 1 - self._first_epoch
        left = (time.monotonic() - self._started) / done * (self._max_epochs - end.epoch - 1)
        best = "  best so far" if end.best_epoch == end.epoch else ""
        log.info(
            "epoch %*d/%d  %s  %s images/s  ETA %d:%02d%s",
            len(str(self._max_epochs)), end.epoch + 1, self._max_epochs, metric_words(row, self._monitor),
            f"{row['images_per_second']:,.0f}", *divmod(round(left), 60), best,
        )  # fmt: skip

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_exception(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        exception: BaseException,
    ) -> None:
        """Remove the bar before the error is shown."""
        self._close()

    @property
    def _max_epochs(self) -> int:
        """Planned length of the run, which may change during the run."""
        return self.trainer.max_epochs or 0

    def _close(self) -> None:
        if self._notebook_bar is not None:
            self._notebook_bar.close()
            self._notebook_bar = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ObserverBridge(Checkpoint):
    """Calls the observers at the end of each epoch.

    A subclass of Lightning's `Checkpoint`, so that it is called after the module's own hooks and after the recorder.
    """

    def __init__(
        self,
        run: RunContext,
        observers: Sequence[Observer],
        recorder: EpochRecorder,
        checkpoints: RunCheckpoints,
    ) -> None:
        self._run = run
        self._observers = observers
        self._recorder = recorder
        self._checkpoints = checkpoints

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: ClassifierModule) -> None:  # type: ignore[override]
        """Pass the epoch's results to the observers."""
        end = EpochEnd(
            epoch=trainer.current_epoch,
            rows=self._recorder.rows,
            validation=pl_module.results[VAL],
            best_epoch=self._checkpoints.best_epoch,
        )
        for observer in self._observers:
            observer.epoch_ended(self._run, end)
        if is_last_epoch(trainer):
            # The next checkpoint ends training; a run that resumes from it plots no epoch again.
            self._run.drawer.wait()


@dataclass(frozen=True)
class Assembly:
    """The callbacks of one run.

    Args:
        callbacks: for Lightning, in order.
        observers: callbacks that see results only.
        recorder: writes metrics.csv.
        checkpoints: saves the weights.
        interrupts: ends training when a signal came; a `with` block around it.
    """

    callbacks: list[pl.Callback]
    observers: list[Observer]
    recorder: EpochRecorder
    checkpoints: RunCheckpoints
    interrupts: Interrupts


def assemble(run: RunContext, components: Mapping[str, Any], observers: Sequence[Observer] = ()) -> Assembly:
    """Build the configured callbacks.

    Lightning calls checkpoint callbacks last. Among these, the recorder is first, because its rows are saved in the
    checkpoint; then the observers, which read the rows; then the checkpoints, which save the state of all others.

    Args:
        run: that they see.
        components: as configured.
        observers: that see the run besides those.

    Raises:
        UserError: when no callback saves the weights.
    """
    built = [item if isinstance(item, Observer) else item(run) for item in components.values()]
    checkpoints = next((item for item in built if isinstance(item, RunCheckpoints)), None)
    if checkpoints is None:
        raise without_checkpoint()
    observers = [*(item for item in built if isinstance(item, Observer)), *observers]
    recorder = EpochRecorder(run.run_dir.metrics)
    others = [item for item in built if isinstance(item, pl.Callback) and item is not checkpoints]
    bridge = ObserverBridge(run, observers, recorder, checkpoints)
    interrupts = Interrupts(run.run_dir, checkpoints)
    callbacks = [*others, StopRequest(run.run_dir), recorder, bridge, checkpoints, interrupts]
    return Assembly(callbacks, observers, recorder, checkpoints, interrupts)
