"""From configured callbacks to what Lightning calls, in the order it must call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from classifier_training.callbacks.observer import EpochEnd, Observer
from classifier_training.core.errors import UserError
from classifier_training.core.types import VAL
from classifier_training.training.checkpoints import RunCheckpoints, is_last_epoch
from classifier_training.training.interrupts import Interrupts
from classifier_training.training.recorder import EpochRecorder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.callbacks.observer import RunContext
    from classifier_training.training.module import ClassifierModule


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


@dataclass(frozen=True)
class Assembly:
    """The callbacks of one run.

    Args:
        callbacks: for Lightning, in order.
        observers: those that see results alone.
        recorder: keeps the rows of metrics.csv.
        checkpoints: keeps the weights.
        interrupts: ends training when a signal came; a `with` block around it.
    """

    callbacks: list[pl.Callback]
    observers: list[Observer]
    recorder: EpochRecorder
    checkpoints: RunCheckpoints
    interrupts: Interrupts


def assemble(run: RunContext, components: Mapping[str, Any], observers: Sequence[Observer] = ()) -> Assembly:
    """Build the configured callbacks.

    Lightning calls checkpoint callbacks last. Of these the recorder comes first, since its rows travel in the
    checkpoint; then the observers, which read the rows; then the checkpoints, which hold the state of all others.

    Args:
        run: that they see.
        components: as configured.
        observers: that see the run besides those.

    Raises:
        UserError: when no callback keeps the weights.
    """
    built = [item if isinstance(item, Observer) else item(run) for item in components.values()]
    checkpoints = next((item for item in built if isinstance(item, RunCheckpoints)), None)
    if checkpoints is None:
        raise UserError(
            "callbacks.checkpoint is switched off",
            "a callback that keeps the best weights: they are what is scored and exported",
            "callbacks=[checkpoint] for no other; callbacks.checkpoint.every_seconds=600 writes less often",
        )
    observers = [*(item for item in built if isinstance(item, Observer)), *observers]
    recorder = EpochRecorder(run.run_dir.metrics)
    others = [item for item in built if isinstance(item, pl.Callback) and item is not checkpoints]
    bridge = ObserverBridge(run, observers, recorder, checkpoints)
    interrupts = Interrupts(run.run_dir, checkpoints)
    return Assembly([*others, recorder, bridge, checkpoints, interrupts], observers, recorder, checkpoints, interrupts)
