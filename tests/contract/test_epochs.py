"""What the epochs of a real run see, and what they do not do besides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL

from classifier_training.core.types import Batch
from classifier_training.training.module import ClassifierModule


@pytest.mark.usefixtures("quick_runs")
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


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_epoch_has_an_order_and_an_augmentation_of_its_own(
    split_folder: Path, train_here: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    epochs: list[dict[int, torch.Tensor]] = [{}, {}]
    original = ClassifierModule.training_step

    def recorded(self: ClassifierModule, batch: Batch, step: int) -> torch.Tensor | None:
        epochs[self.current_epoch].update(zip(batch.indices.tolist(), batch.images.clone(), strict=True))
        return original(self, batch, step)

    monkeypatch.setattr(ClassifierModule, "training_step", recorded)
    settings = [f"data.num_workers={num_workers}", "trainer.max_epochs=2", "transforms.hflip=0.5"]
    train_here([f"data.root={split_folder}", *SMALL, *settings])
    first, second = epochs
    assert sorted(first) == sorted(second) == list(range(18))
    assert list(first) != list(second)
    assert not all(torch.equal(first[row], second[row]) for row in first)
