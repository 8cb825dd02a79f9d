from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from tests.unit.training.test_module import batches, make

from classifier_training.core.errors import UserError
from classifier_training.core.register import Entry, entries
from classifier_training.training.optim import adamw
from classifier_training.training.trial import HIGHEST_LR, LOWEST_LR, LrRange, longest_fall, suggest, sweep, trial_of

RATES = np.geomspace(LOWEST_LR, HIGHEST_LR, 100)


def test_the_longest_fall_is_found() -> None:
    assert longest_fall(np.array([5.0, 6.0, 4.0, 4.5, 3.0, 9.0, 1.0])) == [1, 3, 4, 6]
    assert longest_fall(np.array([1.0, 2.0, 3.0])) == [0]
    assert longest_fall(np.array([])) == []


def test_the_rate_is_half_way_down_the_valley() -> None:
    # Flat to 1e-4, a straight fall to 1e-1, then a steep rise.
    place = np.log10(RATES)
    losses = np.where(place < -4, 2.0, np.where(place < -1, 2 - (place + 4) / 3, 1 + 3 * (place + 1)))
    assert suggest(LrRange(RATES, losses)) == pytest.approx(10**-2.5, rel=0.25)


@pytest.mark.parametrize("losses", [np.full(100, 2.0), np.linspace(1, 3, 100), np.array([])])
def test_a_loss_that_never_falls_is_said(losses: np.ndarray) -> None:
    with pytest.raises(UserError, match="the loss falls at no learning rate from 1e-07 to 10"):
        suggest(LrRange(RATES[: len(losses)], losses))


def optimizers() -> list[Entry]:
    return [item for item in entries("optimizer") if "lr" in item.options]


@pytest.mark.parametrize("item", optimizers(), ids=lambda item: item.name)
def test_every_optimizer_can_be_swept_and_leaves_the_module_as_it_was(item: Entry) -> None:
    name = {"name": "nadamuon"} if item.name == "timm" else {}
    module = make(optimizer=functools.partial(item.target, lr=1.0, **name))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    with trial_of(module, "cpu", "32-true") as trial:
        found = sweep(trial, itertools.cycle([[batch] for batch in batches()]))
        assert not torch.equal(next(trial.module.parameters()), next(module.parameters()))
    assert LOWEST_LR < suggest(found) < HIGHEST_LR
    assert found.rates[0] == LOWEST_LR
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_groups_keep_the_ratio_of_their_rates() -> None:
    module = make(optimizer=functools.partial(adamw, lr=1.0))
    with trial_of(module, "cpu", "32-true") as trial:
        trial.optimizer.param_groups[1]["lr"] = 0.5 * trial.optimizer.param_groups[0]["lr"]
        sweep(trial, itertools.cycle([batches(1)]), num_steps=10)
        rates = [group["lr"] for group in trial.optimizer.param_groups]
    assert rates[1] == pytest.approx(0.5 * rates[0])
