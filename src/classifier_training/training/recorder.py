"""One row an epoch: metrics.csv, written whatever else is switched off."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.callbacks import Checkpoint

from classifier_training.core.run_dir import write_csv
from classifier_training.core.runtime import peak_memory_mb
from classifier_training.core.types import VAL

if TYPE_CHECKING:
    from pathlib import Path

    import pytorch_lightning as pl

    from classifier_training.core.types import Batch
    from classifier_training.training.module import ClassifierModule

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

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Continue the clock in the middle of an epoch."""
        self._started = time.perf_counter() - self._train_seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self._started = time.perf_counter()
        self._train_seconds = 0.0
        self._num_images = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,  # noqa: ARG002
        outputs: object,  # noqa: ARG002
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
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
