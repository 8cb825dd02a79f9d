"""The progress display, as a Lightning callback."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from classifier_training.callbacks.observer import Observer
from classifier_training.core.progress import NotebookBar
from classifier_training.core.runtime import console, in_notebook

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from classifier_training.callbacks.observer import EpochEnd, RunContext
    from classifier_training.core.types import Batch

log = logging.getLogger(__name__)


class EpochProgress(ProgressBar, Observer):
    """Logs a line for every epoch; on a terminal and in a notebook a bar shows how far training is.

    Args:
        monitor: metric to show in the lines.
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

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Show the bar, when there is somebody to see it move."""
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

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start counting images."""
        self._epoch_started = time.monotonic()
        self._num_images = 0
        steps = int(trainer.num_training_batches)
        words = f"epoch {trainer.current_epoch}/{self._max_epochs - 1}"
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
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: object,  # noqa: ARG002
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

    def epoch_ended(self, run: RunContext, end: EpochEnd) -> None:  # noqa: ARG002
        """Log the epoch's line; a linear probe, which has no epochs, has said its own."""
        if self._first_epoch is None:
            return
        row = end.rows[-1]
        done = end.epoch + 1 - self._first_epoch
        left = (time.monotonic() - self._started) / done * (self._max_epochs - end.epoch - 1)
        shown = dict.fromkeys(("train/loss", "val/loss", self._monitor))
        figures = "  ".join(f"{name} {row[name]:.4f}" for name in shown if name in row)
        best = "  best so far" if end.best_epoch == end.epoch else ""
        log.info(
            "epoch %*d/%d  %s  %s images/s  ETA %d:%02d%s",
            len(str(self._max_epochs - 1)), end.epoch, self._max_epochs - 1, figures,
            f"{row['images_per_second']:,.0f}", *divmod(round(left), 60), best,
        )  # fmt: skip

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Take the bar away."""
        self._close()

    def on_exception(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Take the bar away before the error is told."""
        self._close()

    @property
    def _max_epochs(self) -> int:
        """Planned length of the run, which changes when a plan is corrected."""
        return self.trainer.max_epochs or 0

    def _close(self) -> None:
        if self._notebook_bar is not None:
            self._notebook_bar.close()
            self._notebook_bar = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
