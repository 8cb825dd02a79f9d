"""Lightning's side of freezing: at the start of an epoch, by its number alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from classifier_training.models.stages import freeze_stages, split_stages

if TYPE_CHECKING:
    from classifier_training.training.module import ClassifierModule
    from classifier_training.training.transfer import Transfer

log = logging.getLogger(__name__)


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
            learning = ", ".join(stage.name for stage in stages[num_frozen:])
            log.info(
                "epoch %d: %d of %d stages are frozen; %s %s",
                trainer.current_epoch,
                num_frozen,
                len(stages),
                learning,
                "learns" if len(stages) - num_frozen == 1 else "learn",
            )
