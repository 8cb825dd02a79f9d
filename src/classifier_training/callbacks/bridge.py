"""From Lightning's hooks to observers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytorch_lightning.callbacks import Checkpoint

from classifier_training.callbacks.observer import EpochEnd
from classifier_training.core.types import VAL
from classifier_training.training.checkpoints import is_last_epoch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytorch_lightning as pl

    from classifier_training.callbacks.observer import Observer, RunContext
    from classifier_training.training.checkpoints import RunCheckpoints
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.recorder import EpochRecorder


class ObserverBridge(Checkpoint):
    """Shows the end of each epoch to the observers.

    A `Checkpoint` for Lightning, so that it comes after the module's own hooks and after the recorder.
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
        """Tell the observers what the epoch gave."""
        end = EpochEnd(
            epoch=trainer.current_epoch,
            rows=self._recorder.rows,
            validation=pl_module.results[VAL],
            best_epoch=self._checkpoints.best_epoch,
        )
        for observer in self._observers:
            observer.epoch_ended(self._run, end)
        if is_last_epoch(trainer):
            # The checkpoint that follows ends training: who resumes from it plots no epoch again.
            self._run.drawer.wait()
