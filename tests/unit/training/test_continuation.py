from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from classifier_training.training.continuation import take_settings


def build(decay: float, *, weight_decay: float) -> tuple[torch.optim.Optimizer, LambdaLR]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1 * decay**depth} for depth in (0, 1)]
    optimizer = torch.optim.SGD(groups, weight_decay=weight_decay)
    return optimizer, LambdaLR(optimizer, lambda step: 1 - step / 10)


def test_a_decay_by_depth_that_changes_changes_the_learning_rates() -> None:
    optimizer, scheduler = build(0.9, weight_decay=0)
    optimizer.step()
    scheduler.step()
    take_settings(optimizer, build(0.9, weight_decay=0.5)[0], scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * 0.9, 0.1 * 0.9 * 0.9]
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    take_settings(optimizer, build(0.1, weight_decay=0.5)[0], scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.09, 0.009])
    assert scheduler.base_lrs == pytest.approx([0.1, 0.01])
