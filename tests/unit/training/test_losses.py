from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from classifier_training.training.losses import cross_entropy, focal

LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_without_focus_is_cross_entropy(weights: torch.Tensor | None) -> None:
    assert focal(LOGITS, TARGETS, weights, gamma=0.0) == pytest.approx(cross_entropy(LOGITS, TARGETS, weights).item())


def test_focal_loss_follows_its_equation() -> None:
    p = LOGITS.softmax(1)[torch.arange(8), TARGETS]
    expected = (-((1 - p) ** 2) * p.log()).mean()
    assert focal(LOGITS, TARGETS, None) == pytest.approx(expected.item())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_sure_prediction_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(focal(logits, torch.tensor([0]), None, gamma=gamma), logits)
    assert torch.isfinite(gradient).all()


def test_smoothing_and_weights_are_passed_on() -> None:
    expected = functional.cross_entropy(LOGITS, TARGETS, weight=WEIGHTS, label_smoothing=0.1)
    assert cross_entropy(LOGITS, TARGETS, WEIGHTS, label_smoothing=0.1) == expected


@pytest.mark.parametrize("shares", [False, True])
def test_smoothing_goes_to_the_prior_that_is_in_the_logits(shares: bool) -> None:
    prior = torch.tensor([0.9, 0.09, 0.01])
    targets = functional.one_hot(TARGETS, 3).float()
    expected = functional.cross_entropy(LOGITS, 0.8 * targets + 0.2 * prior)
    found = cross_entropy(LOGITS, targets if shares else TARGETS, None, prior, label_smoothing=0.2)
    assert found.item() == pytest.approx(expected.item())
    assert cross_entropy(LOGITS, TARGETS, None, prior) == cross_entropy(LOGITS, TARGETS, None)


def test_smoothed_targets_give_adjusted_logits_no_preference_of_their_own() -> None:
    # Images that say nothing of their class: the best answer is the prior, and no preference without it.
    targets = torch.cat([torch.full((number,), one) for one, number in enumerate((90, 9, 1))])
    prior = torch.tensor([0.9, 0.09, 0.01])
    answer = torch.zeros(3, requires_grad=True)
    loss = cross_entropy((answer + prior.log()).expand(100, 3), targets, None, prior, label_smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert answer.grad is not None
    assert answer.grad.abs().max() < 1e-6


def test_gradients_stay_finite_for_sure_answers() -> None:
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    focal(logits, torch.tensor([0]), None).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", [cross_entropy, focal])
def test_a_share_of_one_is_a_class_number(loss: Callable[..., torch.Tensor], weights: torch.Tensor | None) -> None:
    shares = functional.one_hot(TARGETS, 3).float()
    assert loss(LOGITS, shares, weights).item() == pytest.approx(loss(LOGITS, TARGETS, weights).item(), rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_of_shares_follows_its_equation(weights: torch.Tensor | None) -> None:
    shares = torch.rand(8, 3, generator=torch.Generator().manual_seed(1))
    shares /= shares.sum(1, keepdim=True)
    weighted = shares * (torch.ones(3) if weights is None else weights)
    expected = -(weighted * LOGITS.log_softmax(1)).sum() / weighted.sum()
    assert cross_entropy(LOGITS, shares, weights).item() == pytest.approx(expected.item(), rel=1e-5)
    assert focal(LOGITS, shares, weights, gamma=0.0).item() == pytest.approx(expected.item(), rel=1e-5)
