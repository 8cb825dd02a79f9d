"""Callbacks see results; they never run the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL

from classifier_training.training.module import ClassifierModule


@pytest.mark.usefixtures("undrawn")
def test_default_callbacks_add_no_forward_pass(
    split_folder: Path, train_here: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"forward": 0}
    original = ClassifierModule.forward

    def counted(self: ClassifierModule, images: torch.Tensor) -> torch.Tensor:
        calls["forward"] += 1
        return original(self, images)

    monkeypatch.setattr(ClassifierModule, "forward", counted)
    train_here([f"data.root={split_folder}", *SMALL, "trainer.max_epochs=2"])
    # 18 training images make 5 batches of 4 or 3; 9 images of validation and test make 3 each.
    assert calls["forward"] == 2 * (5 + 3) + 3
