"""The loss of a student, and where its teacher's answers come from."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training.test_module import PREPROCESSING, batches, make
from torch import nn

from classifier_training.core.errors import UserError
from classifier_training.training.distillation_loss import (
    DistillationLoss,
    FeatureHints,
    StoredOutputs,
    Teacher,
    TeacherOutputs,
    Teachers,
    store_outputs,
)
from classifier_training.training.linear_head import count_features
from classifier_training.training.losses import Distillation, soft_label_loss, soft_labels
from classifier_training.training.optim import adamw


def test_the_loss_is_the_papers() -> None:
    # By hand: softmax of (2, 0) / 2 and of (0, 2) / 2 are (p, q) and (q, p).
    p, q = math.e / (math.e + 1), 1 / (math.e + 1)
    labels = soft_labels(torch.tensor([[[2.0, 0.0]]]), 2.0)
    assert labels[0].tolist() == pytest.approx([p, q])
    divergence = p * math.log(p / q) + q * math.log(q / p)
    loss = soft_label_loss(torch.tensor([[0.0, 2.0]]), labels, 2.0)
    assert loss.item() == pytest.approx(2.0**2 * divergence)
    assert soft_label_loss(torch.tensor([[2.0, 0.0]]), labels, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_several_teachers_give_the_mean_of_their_probabilities() -> None:
    logits = torch.randn(5, 3, 4)
    expected = torch.stack([(logits[:, number] / 3).softmax(1) for number in range(3)]).mean(0)
    assert torch.allclose(soft_labels(logits, 3.0), expected)


def test_gradients_keep_their_size_at_any_temperature() -> None:
    sizes = []
    for temperature in (20.0, 200.0):
        logits = torch.tensor([[1.0, -1.0, 0.5]], requires_grad=True)
        soft_label_loss(logits, soft_labels(torch.tensor([[[0.0, 2.0, 1.0]]]), temperature), temperature).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        sizes.append(logits.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize(("settings", "came"), [({"alpha": 0.0}, "no effect"), ({"teacher": []}, "no teacher")])
def test_a_teacher_without_effect_is_refused(settings: dict[str, Any], came: str) -> None:
    with pytest.raises(UserError, match=came):
        Distillation(**{"teacher": "run", **settings})


def network(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, width), nn.ReLU(), nn.Linear(width, 3))


def teachers(*, gives_features: bool = False) -> Teachers:
    torch.manual_seed(5)
    made = [Teacher(network(7).eval(), PREPROCESSING, [0, 1, 2]), Teacher(network(6).eval(), PREPROCESSING, [2, 0, 1])]
    return Teachers(made, gives_features=gives_features)


def guided(settings: Distillation, teaching: Any, *, hints: bool = False) -> Any:
    torch.manual_seed(0)
    student = network()
    distillation = DistillationLoss(
        settings, teaching, [True, True], FeatureHints("3", 5, 13, seed=0) if hints else None
    )
    return make(student, distillation=distillation, optimizer=functools.partial(adamw, lr=1e-2))


def losses(module: Any) -> list[float]:
    module.on_train_epoch_start()
    optimizer = module.configure_optimizers()["optimizer"]
    found = []
    for step, batch in enumerate(batches()):
        loss = step_of(module, batch, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(loss.item())
    return found


def step_of(module: Any, batch: Any, step: int) -> torch.Tensor:
    loss = module.training_step(batch, step)
    assert isinstance(loss, torch.Tensor)
    return loss


def test_the_step_blends_both_losses_and_hints() -> None:
    settings = Distillation(teacher="run", temperature=3.0, alpha=0.4, hint_weight=0.5)
    module = guided(settings, teachers(gives_features=True), hints=True)
    module.on_train_epoch_start()
    batch = batches(1)[0]
    logits = module(batch.images)
    answers = teachers(gives_features=True)(batch.images, batch.indices)
    assert answers.features is not None
    hard = nn.functional.cross_entropy(logits, batch.targets)
    soft = 9 * nn.functional.kl_div(
        (logits / 3).log_softmax(1), (answers.logits / 3).softmax(2).mean(1), reduction="batchmean"
    )
    pixels = PREPROCESSING.normalize(batch.images.permute(0, 2, 3, 1).numpy())
    own = module.network[:3](torch.from_numpy(np.ascontiguousarray(pixels)).float())
    hint = ((module.distillation.hints.projection(own) - answers.features) ** 2).mean()
    expected = 0.6 * hard + 0.4 * soft + 0.5 * hint
    assert step_of(module, batch, 0).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("is_balanced", [True, False])
def test_adjusted_logits_go_with_weighed_pictures_and_a_balanced_teacher(is_balanced: bool) -> None:
    settings = Distillation(teacher="run", temperature=2.0, alpha=1.0)
    asked, adjustment = teachers(), torch.tensor([0.0, -1.0, -3.0])
    module = make(
        network(), distillation=DistillationLoss(settings, asked, [is_balanced] * 2), logit_adjustment=adjustment
    )
    module.on_train_epoch_start()
    batch = batches(1)[0]
    theirs = asked(batch.images, batch.indices).logits - (0 if is_balanced else adjustment)
    weights = torch.exp(-adjustment)[batch.targets]
    expected = soft_label_loss(module(batch.images), soft_labels(theirs, 2.0), 2.0, weights)
    assert step_of(module, batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_pictures_weigh_as_their_classes_do() -> None:
    settings = Distillation(teacher="run", temperature=2.0, alpha=1.0)
    asked, class_weights = teachers(), torch.tensor([1.0, 0.0, 5.0])
    module = make(network(), distillation=DistillationLoss(settings, asked, [True, True]), class_weights=class_weights)
    module.on_train_epoch_start()
    batch = batches(1)[0]
    labels = soft_labels(asked(batch.images, batch.indices).logits, 2.0)
    weights = class_weights[batch.targets]
    single = [
        soft_label_loss(logits[None], label[None], 2.0)
        for logits, label in zip(module(batch.images), labels, strict=True)
    ]
    expected = (weights * torch.stack(single)).sum() / weights.sum()
    assert step_of(module, batch, 0).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("hints", [False, True])
def test_kept_answers_give_the_same_losses(tmp_path: Path, hints: bool) -> None:
    settings = Distillation(teacher="run", alpha=0.6, hint_weight=0.3 if hints else 0.0)
    asked = teachers(gives_features=hints)
    sizes = {"num_images": 12, "num_teachers": 2, "num_classes": 3}
    kept = store_outputs(tmp_path / "a.npy", asked, batches(), device="cpu", **sizes)
    fresh = losses(guided(settings, asked, hints=hints))
    assert losses(guided(settings, kept, hints=hints)) == pytest.approx(fresh, abs=1e-5)
    # From the file alone: the teachers are not asked again.
    again = store_outputs(tmp_path / "a.npy", asked, [], device="cpu", **sizes)
    assert losses(guided(settings, again, hints=hints)) == pytest.approx(fresh, abs=1e-5)


def test_old_answers_leave_the_cache(tmp_path: Path) -> None:
    for number in range(10):
        store_outputs(
            tmp_path / f"{number}.npy",
            teachers(),
            batches(),
            num_images=12,
            num_teachers=2,
            num_classes=3,
            device="cpu",
        )
    assert len(list(tmp_path.glob("*.npy"))) == 8
    assert (tmp_path / "9.npy").exists()


def test_classes_come_in_the_students_order() -> None:
    module = network().eval()
    batch = batches(1)[0]
    plain, turned = (Teacher(module, PREPROCESSING, order) for order in ([0, 1, 2], [2, 0, 1]))
    first = plain(batch.images, gives_features=False).logits
    assert torch.equal(turned(batch.images, gives_features=False).logits, first[:, :, [2, 0, 1]])


def test_a_teacher_is_shared_by_copies_and_in_no_checkpoint() -> None:
    asked = teachers(gives_features=True)
    module = guided(Distillation(teacher="run", hint_weight=1.0), asked, hints=True)
    names = [name for name in module.state_dict() if not name.startswith("network.")]
    assert names == ["distillation.hints.projection.weight", "distillation.hints.projection.bias"]
    copied = copy.deepcopy(module)
    assert copied.distillation._teaching._teachers[0] is asked._teachers[0]
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert any(
        parameter is module.distillation.hints.projection.weight for group in groups for parameter in group["params"]
    )


def test_the_projection_starts_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    one, other = (FeatureHints("3", 5, 7, seed=3).projection.weight for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_without_one_vector_of_features_is_refused() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match=r"hint_weight: its last layer is shown a map of features"):
        count_features(pooled, image_size=8, setting="distillation.hint_weight")
    assert count_features(network(), image_size=8, setting="") == ("3", 5)


def test_rows_of_noise_beyond_the_data_are_answered() -> None:
    kept = StoredOutputs(np.zeros((4, 3), dtype=np.float32), num_teachers=1, num_classes=3)
    found = kept(torch.zeros(6, 3, 8, 8), torch.arange(6))
    assert isinstance(found, TeacherOutputs)
    assert found.logits.shape == (6, 1, 3)
