from __future__ import annotations

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.optim.swa_utils import AveragedModel

from classifier_training.training.ema import ExponentialMovingAverage, warmed_decay


def test_the_decay_warms_up_to_its_value() -> None:
    assert warmed_decay(0.999, 0) == pytest.approx(0.1)
    assert warmed_decay(0.999, 90) == pytest.approx(0.91)
    assert warmed_decay(0.999, 10**6) == 0.999


def test_the_average_starts_at_the_first_update_and_follows_the_recursion() -> None:
    ema = ExponentialMovingAverage(0.9)
    module = nn.BatchNorm1d(1)
    average = AveragedModel(module, multi_avg_fn=ema._update, use_buffers=True)
    expected = None
    for step in range(12):
        value = float(step**2)
        nn.init.constant_(module.weight, value)
        assert module.running_mean is not None
        assert module.num_batches_tracked is not None
        module.running_mean.fill_(value)
        module.num_batches_tracked.fill_(step)
        average.update_parameters(module)
        decay = warmed_decay(0.9, step)
        expected = value if expected is None else decay * expected + (1 - decay) * value
    state = average.module.state_dict()
    assert state["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert state["running_mean"].item() == pytest.approx(expected, rel=1e-5)
    assert state["num_batches_tracked"].item() == 11


def test_the_averaged_state_has_the_names_of_the_module() -> None:
    class Shell(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(2, 1)

    shell, ema = Shell(), ExponentialMovingAverage(0.5)
    ema.setup(None, shell, "fit")  # type: ignore[arg-type]
    assert ema.averaged_state().keys() == shell.state_dict().keys()
    assert torch.equal(ema.averaged_state()["network.weight"], shell.network.weight)
