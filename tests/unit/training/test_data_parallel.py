from __future__ import annotations

import pytest
import torch
from torch import nn

from classifier_training.training.data_parallel import StopWishes, from_first, gathered, norm_layers, whole_step


def test_one_process_is_the_whole_step() -> None:
    loss = torch.tensor(2.0, requires_grad=True)
    step = whole_step(loss, torch.tensor(3.0), torch.tensor(1.0), torch.tensor(3.0), wishes=StopWishes())
    assert step.loss is loss
    assert float(step.mean_loss) == 2
    assert gathered([1, 2]) == [1, 2]
    assert from_first("any") == "any"


def test_a_wish_of_any_process_is_kept() -> None:
    wishes = StopWishes()
    assert [float(one) for one in wishes.own(torch.tensor(7.0))] == [0, 0]
    wishes.interrupted = True
    assert [float(one) for one in wishes.own(torch.tensor(7.0))] == [1, 0]
    for sums in ([0.0, 0.0], [0.0, 2.0], [0.0, 0.0]):
        wishes.agree(torch.tensor(sums))
    assert not wishes.any_interrupted
    assert wishes.any_out_of_time


@pytest.mark.gpu
def test_on_a_gpu_the_answer_to_a_step_is_read_after_the_next() -> None:
    wishes = StopWishes()
    wishes.agree(torch.tensor([1.0, 0.0], device="cuda"))
    assert not wishes.any_interrupted
    wishes.agree(torch.tensor([0.0, 0.0], device="cuda"))
    assert wishes.any_interrupted


def test_layers_with_running_statistics_are_found() -> None:
    kept = nn.BatchNorm2d(3)
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), kept, nn.InstanceNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)
    )
    assert norm_layers(network) == [kept]
