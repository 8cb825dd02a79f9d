"""When a run is saved and with which weights: last.ckpt and step.ckpt to resume, best.ckpt to keep, averaged ones."""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.types import PROBE_EPOCH
from classifier_training.training.checkpoint_files import ENDS_TRAINING, AtomicCheckpointIO, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pytorch_lightning as pl
    from torch import Tensor

    from classifier_training.core.run_dir import RunDir
    from classifier_training.training.module import ClassifierModule

log = logging.getLogger(__name__)


def warmed_decay(decay: float, num_updates: int) -> float:
    """Decay of an update, growing from 0.18 to `decay`, so that a short run is not held at its start.

    As in TensorFlow's ExponentialMovingAverage: min(decay, (1 + n) / (10 + n)).
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's weight averaging with a decay that warms up.

    It averages from the first step on, on the device of the weights, batch-norm statistics included; the average is
    swapped in for validation and left in place when training ends, and checkpoints hold it as their `state_dict`.

    Args:
        decay: share of the average that a step keeps, once warm.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=self._update)
        self.decay = decay

    @torch.no_grad()
    def _update(self, averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            weight = 1 - warmed_decay(self.decay, int(num_averaged))
            torch._foreach_lerp_(list(averaged), list(current), weight)
        else:
            for average, value in zip(averaged, current, strict=True):
                average.copy_(value)

    def averaged_state(self) -> dict[str, Tensor]:
        """The averaged weights under the names of the module's own."""
        assert self._average_model is not None
        return self._average_model.module.state_dict()


def validated_state(trainer: pl.Trainer) -> dict[str, Tensor]:
    """Weights that the last validation scored: the average where there is one, else the module's own."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ExponentialMovingAverage):
            return callback.averaged_state()
    return trainer.lightning_module.state_dict()


LONG_VALIDATION_SECONDS = 3.0
"""A validation that takes longer is not waited for when a signal comes; the state of before its last step is kept."""


class RunCheckpoints(Checkpoint):
    """Keeps the best weights and, to resume from, the state at the end of an epoch or between two of its steps.

    A run that has no checkpoint yet is saved after its first step. The best weights wait in memory and are written with
    last.ckpt, at the end of an epoch, no oftener than `every_seconds`: epochs of a second would otherwise be spent
    writing. best.ckpt holds the validated weights and no optimizer state. Lightning's own ModelCheckpoint writes the
    whole state for each, every time.

    Args:
        run_dir: where the files go.
        monitor: metric that decides, as logged.
        mode: max or min.
        every_seconds: least time between two writes at the end of an epoch; the last epoch is always written, even
            after an error.
        every_minutes: most time without a write within an epoch.
        keep_last: whether a finished run keeps last.ckpt.
        metadata: plain values that best.ckpt carries along (classes, preprocessing, architecture).

    Attributes:
        has_ended: whether the last epoch is over and the best weights are kept: an error that comes now costs neither.
        unsaved: why last.ckpt could not be written after the last epoch; the run ends without it.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        monitor: str,
        mode: str,
        every_seconds: float,
        every_minutes: float,
        keep_last: bool,
        metadata: Mapping[str, Any],
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self.keep_last = keep_last
        self.has_ended = False
        self.unsaved: OSError | None = None
        self._run_dir = run_dir
        self._every_seconds = every_seconds
        self._step_seconds = 60 * every_minutes
        self._metadata = dict(metadata)
        self._margin = 0.0
        self._pending: dict[str, Any] | None = None
        self._unwritten: Any = None
        self._before_validation: Any = None
        self._validation_started = 0.0
        self._validation_seconds: float | None = None
        self._written_at = time.monotonic()
        self._is_saved = False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch, "margin": self._margin}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what the interrupted run knew; best weights that are damaged are chosen anew."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self._margin = state_dict.get("margin", 0.0)
        if self.best_epoch is None:
            return
        try:
            read_checkpoint(self._run_dir.best_checkpoint)
        except UserError as error:
            log.warning("%s; the best weights are chosen anew, from here on", error.came)
            self.best_score = self.best_epoch = None

    def begin_with(self, module: ClassifierModule, score: float, *, margin: float) -> None:
        """Keep the weights that training begins with, unless an epoch scores clearly higher.

        Args:
            module: with the head of the linear probe.
            score: the monitored metric of its predictions on validation.
            margin: by how much the score of an epoch must be better.
        """
        self._margin = margin
        self.best_score, self.best_epoch = score, PROBE_EPOCH
        kept = self._described(module.state_dict(), epoch=PROBE_EPOCH, step=0, score=score)
        for path in (self._run_dir.probe_checkpoint, self._run_dir.best_checkpoint):
            AtomicCheckpointIO().save_checkpoint(kept, path)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See whether the run has a checkpoint, and start the clock."""
        self._is_saved = self._run_dir.resumable
        self._written_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: ClassifierModule,  # type: ignore[override]
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Write step.ckpt when it is time; keep the state of before the last step where validation takes long."""
        if not is_step_end(trainer, batch_idx):
            return
        if not self._is_saved or time.monotonic() - self._written_at >= self._step_seconds:
            self.save_step(trainer, pl_module)
        every = trainer.accumulate_grad_batches
        is_last_chance = batch_idx + 1 + every >= trainer.num_training_batches
        seconds = self._validation_seconds
        if is_last_chance and (seconds is None or seconds >= LONG_VALIDATION_SECONDS):
            self._before_validation = _state(trainer)

    def save_step(self, trainer: pl.Trainer, pl_module: ClassifierModule) -> None:
        """Write the state between two steps.

        Raises:
            CheckFailedError: when the weights are no longer numbers.
        """
        pl_module.check_loss()
        if not all(bool(torch.isfinite(weight).all()) for weight in pl_module.parameters()):
            raise CheckFailedError(
                f"the weights are not finite numbers after step {trainer.global_step}",
                "finite weights",
                "lower optimizer.lr, set trainer.gradient_clip_val=1, or train with trainer.precision=32",
            )
        self.flush(trainer)
        _save(trainer, self._run_dir.step_checkpoint)
        self._note_write()

    def leave_validation(self, trainer: pl.Trainer) -> bool:
        """Write the state of before the epoch's last step, if it was kept; returns whether it was."""
        if self._before_validation is None:
            return False
        self.flush(trainer)
        trainer.strategy.save_checkpoint(self._before_validation, self._run_dir.step_checkpoint)
        return True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights when they are the best so far."""
        self._validation_seconds = time.monotonic() - self._validation_started
        self._before_validation = None
        if trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if self._is_best(score):
            self.best_score, self.best_epoch = score, trainer.current_epoch
            weights = {name: value.detach().clone() for name, value in validated_state(trainer).items()}
            self._pending = self._described(weights, epoch=trainer.current_epoch, step=trainer.global_step, score=score)

    def _is_best(self, score: float) -> bool:
        if self.best_score is None:
            return True
        gain = score - self.best_score if self.mode == "max" else self.best_score - score
        return gain > (self._margin if self.best_epoch == PROBE_EPOCH else 0.0)

    def _described(self, weights: dict[str, Any], *, epoch: int, step: int, score: float) -> dict[str, Any]:
        return {
            "state_dict": weights,
            "epoch": epoch,
            "global_step": step,
            "monitor": self.monitor,
            "score": score,
            **self._metadata,
        }

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write both files when it is time, or when this was the last epoch."""
        self._unwritten = None
        is_last = is_last_epoch(trainer)
        if is_last or not self._is_saved or time.monotonic() - self._written_at >= self._every_seconds:
            self._write_best(trainer)
            # A run that was stopped on request trains on when it is resumed.
            ends_training = is_last and not self._run_dir.stop_request.exists()
            try:
                _save(trainer, self._run_dir.last_checkpoint, ends_training=ends_training)
            except OSError as error:
                if not is_last:
                    raise
                self.unsaved = error
            self._note_write()
            self.has_ended = is_last
        else:
            # Training continues to change the state.
            self._unwritten = _state(trainer)

    def on_exception(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        exception: BaseException,
    ) -> None:
        """Write the last epoch that came to its end, if that has not been done and files can be written."""
        if not isinstance(exception, OSError):
            self.flush(trainer)

    def flush(self, trainer: pl.Trainer) -> None:
        """Write the last epoch that came to its end, if that has not been done."""
        if self._unwritten is not None:
            self._write_best(trainer)
            trainer.strategy.save_checkpoint(self._unwritten, self._run_dir.last_checkpoint)
            self._unwritten = None

    def _note_write(self) -> None:
        self._is_saved = True
        self._written_at = time.monotonic()

    def _write_best(self, trainer: pl.Trainer) -> None:
        # Before last.ckpt: a kill between the two leaves an older one, from which the same best comes again.
        if self._pending is not None:
            trainer.strategy.save_checkpoint(self._pending, self._run_dir.best_checkpoint)
            self._pending = None


def is_step_end(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer has just stepped within an epoch: the end of one is saved after its validation."""
    number = batch_idx + 1
    return number % trainer.accumulate_grad_batches == 0 and number < trainer.num_training_batches


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether the epoch that has just ended is the run's last: by its length, or because something stopped it."""
    return trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs


def _save(trainer: pl.Trainer, path: Path, *, ends_training: bool = False) -> None:
    # Lightning's own would wait for the other processes, which do not save.
    trainer.strategy.save_checkpoint({**_dump(trainer), ENDS_TRAINING: ends_training}, path)


def _state(trainer: pl.Trainer) -> Any:
    return _copied(_dump(trainer))


def _dump(trainer: pl.Trainer) -> dict[str, Any]:
    # Lightning has no public way to take the state without writing it.
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # noqa: SLF001


def _copied(value: Any) -> Any:
    """Copy nested values, tensors to the main memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return type(value)((name, _copied(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return copy.deepcopy(value)
