"""Checkpoints that are never half written: last.ckpt to go on from, best.ckpt to keep."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import atomic_path
from classifier_training.models.weights import read_tensors
from classifier_training.training.ema import validated_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytorch_lightning as pl

    from classifier_training.core.run_dir import RunDir


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, fsyncs and renames; reads tensors and plain values alone, never code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object | None = None
    ) -> None:
        """Write a checkpoint; `storage_options` is Lightning's and must be None."""
        if storage_options is not None:
            raise TypeError("storage_options do not apply to local files")
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,  # noqa: ARG002, FBT001 - Lightning's signature
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU unless told otherwise.

        Raises:
            UserError: when the file is missing, damaged, or holds more than tensors and plain values.
        """
        return read_checkpoint(Path(path), map_location=map_location or "cpu")

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything that it holds.

    Raises:
        UserError: when the file is missing, damaged, or holds more than tensors and plain values.
    """
    found = read_tensors(path, map_location=map_location)
    if not isinstance(found, dict) or "state_dict" not in found:
        raise UserError(f"{path}: holds no weights", "a checkpoint of this program", "choose another run or checkpoint")
    return found


def epochs_done(path: Path, *, max_epochs: int) -> int:
    """Return how many epochs a run to go on with has behind it, which may not be more than it is to have.

    Raises:
        UserError: when it is more, or the checkpoint cannot be read.
    """
    done = int(read_checkpoint(path)["epoch"]) + 1
    if done > max_epochs:
        raise UserError(
            f"trainer.max_epochs={max_epochs}: the run has {done} epochs behind it",
            f"{done} epochs or more",
            f"trainer.max_epochs={done} to finish it as it is",
        )
    return done


class RunCheckpoints(Checkpoint):
    """Keeps the best weights and, to go on from, the state at the end of an epoch.

    The best weights wait in memory and both files are written together, at the end of an epoch, no oftener than
    `every_seconds`: epochs of a second would otherwise be spent writing. best.ckpt holds the validated weights and no
    optimizer state. Lightning's own ModelCheckpoint writes the whole state for each, every time.

    Args:
        run_dir: where the files go.
        monitor: metric that decides, as logged.
        mode: max or min.
        every_seconds: least time between two writes; the last epoch is always written, even after an error.
        metadata: plain values that best.ckpt carries along (classes, preprocessing, architecture).
    """

    def __init__(
        self, run_dir: RunDir, *, monitor: str, mode: str, every_seconds: float, metadata: Mapping[str, Any]
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._run_dir = run_dir
        self._every_seconds = every_seconds
        self._metadata = dict(metadata)
        self._pending: dict[str, Any] | None = None
        self._unwritten: Any = None
        self._written_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what the interrupted run knew."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Keep the weights when they are the best so far."""
        if trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if self.best_score is None or (score > self.best_score if self.mode == "max" else score < self.best_score):
            self.best_score, self.best_epoch = score, trainer.current_epoch
            weights = {name: value.detach().clone() for name, value in validated_state(trainer).items()}
            self._pending = {
                "state_dict": weights,
                "epoch": trainer.current_epoch,
                "global_step": trainer.global_step,
                "monitor": self.monitor,
                "score": score,
                **self._metadata,
            }

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Write both files when it is time, or when this was the last epoch."""
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if is_last or time.monotonic() - self._written_at >= self._every_seconds:
            self._write_best(trainer)
            trainer.save_checkpoint(self._run_dir.last_checkpoint)
            self._unwritten = None
            self._written_at = time.monotonic()
        else:
            # Training goes on changing the state, and Lightning has no public way to take it without writing it.
            self._unwritten = _copied(trainer._checkpoint_connector.dump_checkpoint())  # noqa: SLF001

    def on_exception(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        exception: BaseException,  # noqa: ARG002
    ) -> None:
        """Write the last epoch that came to its end, if that has not been done."""
        if self._unwritten is not None:
            self._write_best(trainer)
            trainer.strategy.save_checkpoint(self._unwritten, self._run_dir.last_checkpoint)
            self._unwritten = None

    def _write_best(self, trainer: pl.Trainer) -> None:
        # Before last.ckpt: a kill between the two leaves an older one, from which the same best comes again.
        if self._pending is not None:
            trainer.strategy.save_checkpoint(self._pending, self._run_dir.best_checkpoint)
            self._pending = None


def _copied(value: Any) -> Any:
    """Copy nested values, tensors to the main memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((name, _copied(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return copy.deepcopy(value)
