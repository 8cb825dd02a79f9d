from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import Batch
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.training.batch_transforms import TrainingView
from classifier_training.training.losses import cross_entropy
from classifier_training.training.module import ClassifierModule
from classifier_training.training.optim import SchedulePlan, adamw, constant

PREPROCESSING = Preprocessing(size=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


class Linear(nn.Module):
    """One layer on all pixels, for networks that do something besides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(x.flatten(1))
        return logits


def make(network: nn.Module | None = None, **changes: Any) -> ClassifierModule:
    network = network or nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 8 * 8, 3))
    settings: dict[str, Any] = {
        "loss": cross_entropy,
        "optimizer": functools.partial(adamw, lr=1e-2),
        "fused": True,
        "scheduler": constant,
        "plan": SchedulePlan(10, "val/loss", "min"),
        "class_names": ("a", "b", "c"),
        "class_weights": None,
        "preprocessing": PREPROCESSING,
        "channels_last": False,
        "seed": 0,
    }
    return ClassifierModule(network, **{**settings, **changes})


def loader(number: int = 3) -> DataLoader[Batch]:
    return DataLoader(batches(number), batch_size=None)  # type: ignore[arg-type]


def batches(number: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator),
            torch.randint(0, 3, (4,), generator=generator),
            torch.arange(4 * row, 4 * row + 4),
        )
        for row in range(number)
    ]


def trainer(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def test_pixels_are_normalized_as_prediction_does() -> None:
    module = make(nn.Identity())
    batch = batches(1)[0]
    seen = module(batch.images).numpy()
    assert seen == pytest.approx(PREPROCESSING.normalize(batch.images.permute(0, 2, 3, 1).numpy()), abs=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_network_sees_the_memory_format_it_was_promised(channels_last: bool) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return x

    make(Spy(), channels_last=channels_last)(batches(1)[0].images)
    assert seen == [channels_last]


def test_a_split_is_scored_whole_and_in_order() -> None:
    module = make()
    trainer().fit(module, loader(), loader())
    result = module.results["val"]
    assert result.logits.shape == (12, 3)
    assert result.indices.tolist() == list(range(12))
    assert result.targets.tolist() == torch.cat([batch.targets for batch in batches()]).tolist()
    expected = nn.functional.cross_entropy(torch.from_numpy(result.logits), torch.from_numpy(result.targets))
    assert result.metrics["loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert result.metrics["acc_top1"] == pytest.approx((result.predicted == result.targets).mean())
    assert np.allclose(result.probabilities.sum(axis=1), 1)


def test_training_figures_are_those_of_the_batches_seen() -> None:
    module = make(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), optimizer=functools.partial(adamw, lr=1e-12))
    with torch.no_grad():
        logits = torch.cat([module(batch.images) for batch in batches()])
    targets = torch.cat([batch.targets for batch in batches()])
    trainer().fit(module, loader())
    metrics = module.training_metrics()
    assert metrics["train/loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-4)
    assert metrics["train/acc_top1"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())


def test_gradients_are_clipped_to_their_norm_in_mixed_precision_too() -> None:
    norms = []

    class Spy(ClassifierModule):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            norms.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]).norm().item())

        def configure_gradient_clipping(self, *arguments: Any, **settings: Any) -> None:
            super().configure_gradient_clipping(*arguments, **settings)
            norms.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]).norm().item())

    made = make()
    made.__class__ = Spy
    trainer(precision="bf16-mixed", gradient_clip_val=1e-3).fit(made, loader(1))
    assert norms[0] > 0.01
    assert norms[-1] == pytest.approx(1e-3, rel=0.01)


def test_dropout_depends_on_seed_epoch_and_step_not_on_history() -> None:
    def weights(noise: int, seed: int) -> torch.Tensor:
        torch.manual_seed(7)
        module = make(seed=seed)
        torch.manual_seed(noise)
        trainer().fit(module, loader())
        return module.network[2].weight  # type: ignore[index, no-any-return]

    assert torch.equal(weights(1, 0), weights(2, 0))
    assert not torch.equal(weights(1, 0), weights(1, 1))


def test_a_loss_that_is_no_number_stops_the_run_at_its_step() -> None:
    class Breaking(Linear):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            logits = super().forward(x)
            return logits * float("nan") if self.calls == 2 else logits

    with pytest.raises(CheckFailedError, match="epoch 1, step 1"):
        trainer().fit(make(Breaking()), loader(), loader())


def test_a_validation_loss_that_is_no_number_ends_the_run_in_words() -> None:
    class Breaking(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            return logits if self.training else logits * float("nan")

    with pytest.raises(CheckFailedError, match="the val loss is not a finite number at epoch 1"):
        trainer().fit(make(Breaking()), loader(), loader())


def only(batch: Batch, number: int) -> Batch:
    return Batch(batch.images[:number], batch.targets[:number], batch.indices[:number])


def test_batches_too_small_are_passed_over_and_an_empty_split_is_named(recwarn: pytest.WarningsRecorder) -> None:
    whole, other, _ = batches()
    ragged: DataLoader[Batch] = DataLoader([whole, only(other, 1), only(other, 0)], batch_size=None)  # type: ignore[arg-type]
    empty: DataLoader[Batch] = DataLoader([only(whole, 0)], batch_size=None)  # type: ignore[arg-type]
    module = make(min_batch_size=2)
    trainer().fit(module, ragged, ragged)
    assert module.training_metrics()["train/loss"] > 0
    assert module.results["val"].indices.tolist() == [0, 1, 2, 3, 4]
    assert not [warning for warning in recwarn if "returned `None`" in str(warning.message)]
    with pytest.raises(UserError, match="train: none of its images"):
        trainer().fit(make(), empty, ragged)
    with pytest.raises(UserError, match="val: none of its images"):
        trainer().fit(make(), ragged, empty)


def test_the_held_out_split_is_scored_in_full_precision() -> None:
    seen = []

    class Spy(Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            seen.append(logits.dtype)
            return logits

    module = make(Spy())
    runner = trainer(precision="bf16-mixed")
    runner.fit(module, loader(1), loader(1))
    runner.test(module, loader(1), verbose=False)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert module.results["test"].metrics.keys() >= {"loss", "balanced_accuracy"}


def test_logits_are_adjusted_in_the_loss_of_training_alone() -> None:
    adjustment = torch.tensor([-3.0, 0.0, -1.0])
    settings = {"optimizer": functools.partial(adamw, lr=1e-12), "logit_adjustment": adjustment}
    module = make(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), **settings)
    with torch.no_grad():
        logits = torch.cat([module(batch.images) for batch in batches()])
    targets = torch.cat([batch.targets for batch in batches()])
    trainer().fit(module, loader(), loader())
    expected = nn.functional.cross_entropy(logits + adjustment, targets).item()
    assert module.training_metrics()["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert module.results["val"].logits == pytest.approx(logits.numpy(), abs=1e-4)
    assert module.results["val"].metrics["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, targets).item(), rel=1e-4
    )


def test_accuracy_on_mixed_pictures_is_the_share_of_the_class_answered() -> None:
    view = TrainingView(transforms=Transforms(mixup=1.0), num_classes=3, image_size=8, max_epochs=1, seed=4)
    settings = {"optimizer": functools.partial(adamw, lr=1e-12), "view": view}
    module = make(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), **settings)
    shares = []
    with torch.no_grad():
        for step, batch in enumerate(batches()):
            images, targets = view(batch.images, batch.targets, epoch=0, step=step)
            shares.append(targets[torch.arange(4), module(images).argmax(1)])
    trainer().fit(module, loader())
    assert module.training_metrics()["train/acc_top1"] == pytest.approx(torch.cat(shares).mean().item(), abs=1e-5)
