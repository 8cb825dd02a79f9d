from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.training.end import interrupts_told


class Stopped(pl.LightningModule):
    def predict_step(self, *_: Any) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_while_images_are_predicted_says_how_to_resume(tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(InterruptedRunError) as told, interrupts_told(RunDir(tmp_path)):
            trainer.predict(Stopped(), DataLoader(TensorDataset(torch.zeros(1))), return_predictions=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told.value.exit_code == 130
    assert f"resume={tmp_path}" in str(told.value)
