from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from classifier_training.core.errors import UserError
from classifier_training.training.optim import (
    SchedulePlan,
    adamw,
    cosine,
    one_cycle,
    parameter_groups,
    plateau,
    sgd,
    timm_optimizer,
    warmup_cosine,
)

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
PLAN = SchedulePlan(total_steps=100, monitor="val/balanced_accuracy", mode="max")


def test_norms_and_biases_do_not_decay_and_frozen_weights_are_left_out() -> None:
    decayed, spared = parameter_groups(NETWORK, 0.1)
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    frozen = nn.Linear(2, 2)
    frozen.weight.requires_grad = False
    assert [len(group["params"]) for group in parameter_groups(frozen, 0.1)] == [0, 1]


def test_settings_reach_the_optimizers() -> None:
    assert adamw(NETWORK, True, lr=0.5, beta2=0.9).param_groups[0]["betas"] == (0.9, 0.9)
    built = sgd(NETWORK, True, lr=0.5, momentum=0.0).param_groups[0]
    assert (built["lr"], built["nesterov"]) == (0.5, False)


BUILDS: list[Callable[..., Optimizer]] = [adamw, sgd, functools.partial(timm_optimizer, name="nadamuon")]


@pytest.mark.parametrize("build", BUILDS)
def test_no_optimizer_is_made_before_a_rate_is_found(build: Callable[..., Optimizer]) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr=auto where no range test"):
        build(NETWORK, True, lr="auto")


def test_timms_optimizers_are_made_by_their_names_with_their_own_momentum() -> None:
    muon = timm_optimizer(NETWORK, True, name="muon", weight_decay=0.2)
    assert type(muon).__name__ == "Muon"
    assert [(group["weight_decay"], group["momentum"]) for group in muon.param_groups] == [(0.2, 0.95), (0.0, 0.95)]
    assert timm_optimizer(NETWORK, True, name="muon", momentum=0.5).param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("settings", "came", "remedy"),
    [
        ({"name": "loin"}, "has no such optimizer", "optimizer.name=lion"),
        # It needs second derivatives.
        ({"name": "adahessian"}, "has no such optimizer", "optimizer.name=ada"),
        ({"name": "lion", "momentum": 0.9}, "cannot make it", "leave optimizer.momentum out"),
        # Its package is missing here, or a GPU.
        ({"name": "fusedlamb"}, "cannot make it", "optimizer=adamw"),
    ],
)
def test_an_optimizer_that_timm_cannot_make_is_refused(settings: dict[str, Any], came: str, remedy: str) -> None:
    with pytest.raises(UserError, match=came) as caught:
        timm_optimizer(NETWORK, True, **settings)
    assert remedy in str(caught.value)


def test_the_cosine_rises_falls_and_ends_where_it_should() -> None:
    factors = [warmup_cosine(step, 100, warmup_fraction=0.1, final_lr_ratio=0.01) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[99] == pytest.approx(0.01)
    assert warmup_cosine(500, 100, warmup_fraction=0.0, final_lr_ratio=0.2) == pytest.approx(0.2)


def test_the_cosine_is_stepped_by_step_and_the_plateau_by_its_metric() -> None:
    optimizer = adamw(NETWORK, True, lr=1.0)
    made = cosine(optimizer, PLAN)
    assert made["interval"] == "step"
    assert made["scheduler"].get_last_lr() == pytest.approx([0.1, 0.1])
    made = plateau(optimizer, PLAN)
    assert made["monitor"] == PLAN.monitor
    assert made["scheduler"].mode == "max"


def test_training_with_each_optimizer_makes_the_loss_smaller() -> None:
    images, targets = torch.randn(16, 3, 3, 3), torch.randint(0, 2, (16,))
    for build in BUILDS:
        optimizer = build(NETWORK, True, lr=0.05)
        losses = []
        for _ in range(20):
            loss = nn.functional.cross_entropy(NETWORK(images), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]


def test_deeper_stages_learn_more_slowly_and_every_parameter_is_in_one_group() -> None:
    deep = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    groups = parameter_groups(deep, 0.1, lr=0.8, layer_decay=0.5)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (0.8, 0.1), (0.8, 0.0), (0.4, 0.1), (0.4, 0.0), (0.2, 0.1), (0.2, 0.0),
    ]  # fmt: skip
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in deep.parameters())
    for build in BUILDS:
        optimizer = build(deep, True, lr=0.8, layer_decay=0.5)
        rates = cosine(optimizer, PLAN)["scheduler"].get_last_lr()
        assert rates == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02, 0.02])
    with pytest.raises(UserError, match="no layers below its head"):
        parameter_groups(nn.Linear(2, 2), 0.1, layer_decay=0.5)


@pytest.mark.parametrize("build", [adamw, sgd])
def test_the_one_cycle_is_that_of_torch_and_goes_on_beyond_its_end(
    build: Callable[..., torch.optim.Optimizer],
) -> None:
    def momentum(optimizer: torch.optim.Optimizer) -> float:
        group = optimizer.param_groups[0]
        return float(group["betas"][0] if "betas" in group else group["momentum"])

    ours, theirs = build(NETWORK, True, lr=0.4), build(NETWORK, True, lr=0.4)
    scheduler = one_cycle(ours, PLAN)["scheduler"]
    peer = OneCycleLR(theirs, max_lr=0.4, total_steps=100)
    for step in range(100):
        assert ours.param_groups[1]["lr"] == pytest.approx(theirs.param_groups[1]["lr"], rel=1e-6, abs=1e-12)
        assert momentum(ours) == pytest.approx(momentum(theirs))
        if step == 40:
            fresh = build(NETWORK, True, lr=0.4)
            resumed = one_cycle(fresh, PLAN)["scheduler"]
            fresh.load_state_dict(ours.state_dict())
            resumed.load_state_dict(scheduler.state_dict())
            ours, scheduler = fresh, resumed
        ours.step()
        theirs.step()
        scheduler.step()
        if step < 99:
            peer.step()
    scheduler.step()
    assert ours.param_groups[0]["lr"] == pytest.approx(0.4 * 4e-6)


def test_the_one_cycle_gives_no_momentum_to_an_optimizer_without() -> None:
    optimizer = sgd(NETWORK, True, momentum=0.0)
    one_cycle(optimizer, PLAN)
    assert optimizer.param_groups[0]["momentum"] == 0
