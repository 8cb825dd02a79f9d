from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from classifier_training.conf.validate import build_node
from classifier_training.core.errors import UserError
from classifier_training.data.samplers import inverse_frequency_weights, manual_weights, uniform_weights
from classifier_training.training.imbalance import (
    Correction,
    balanced_weights,
    correct_imbalance,
    effective_number_weights,
)

NAMES = ("a", "b")


def correct(switch: str, counts: tuple[int, int], sampler: Any = None, **settings: float) -> Correction:
    chosen = build_node("imbalance", {"type": switch, **settings}, "imbalance")
    return correct_imbalance(chosen, sampler, class_counts=np.array(counts), class_names=NAMES)


def parts(chosen: Correction) -> list[bool]:
    return [part is not None for part in (chosen.sampler_weights, chosen.loss_weights, chosen.logit_adjustment)]


def test_auto_leaves_balanced_classes_alone_and_says_why() -> None:
    chosen = correct("auto", (100, 90))
    assert parts(chosen) == [False, False, False]
    assert "below 1.5" in chosen.words


@pytest.mark.parametrize("switch", ["logit_adjust", "weights"])
def test_what_the_draw_leaves_is_corrected_where_all_images_are_seen_at_once(switch: str) -> None:
    sampler = functools.partial(inverse_frequency_weights, power=0.5)
    chosen = correct(switch, (900, 100), sampler)
    assert chosen.sampler_weights is not None
    assert chosen.class_weights is not None
    shares = chosen.class_weights * [900, 100]
    np.testing.assert_allclose(shares / shares.sum(), [0.5, 0.5])


def test_auto_adjusts_the_logits_of_unbalanced_classes_and_nothing_else() -> None:
    chosen = correct("auto", (100, 10))
    assert parts(chosen) == [False, False, True]
    for words in ("10.0:1", "-2.40 (b) to -0.10 (a)", "at least 1.5"):
        assert words in chosen.words


def test_each_switch_does_what_it_says_and_one_thing_alone() -> None:
    found = {name: correct(name, (100, 10)) for name in ("sampler", "weights", "logit_adjust", "none")}
    assert [parts(chosen) for chosen in found.values()] == [
        [True, False, False], [False, True, False], [False, False, True], [False, False, False],
    ]  # fmt: skip
    assert found["sampler"].sampler_weights == pytest.approx([0.01, 0.1])
    assert found["weights"].loss_weights == pytest.approx([0.55, 5.5])
    assert found["logit_adjust"].logit_adjustment == pytest.approx(np.log([100 / 110, 10 / 110]))
    assert correct("logit_adjust", (100, 10), tau=2.0).logit_adjustment == pytest.approx(
        2 * np.log([100 / 110, 10 / 110])
    )


def test_an_adjusted_cross_entropy_is_the_balanced_softmax_of_its_equation() -> None:
    counts = np.array([100, 10])
    adjustment = correct("logit_adjust", (100, 10)).logit_adjustment
    logits, targets = torch.tensor([[0.3, 1.2], [-0.5, 0.1]]), torch.tensor([0, 1])
    # Ren et al. 2020, eq. 4: the softmax with each exponential times the number of the class's images.
    weighted = torch.from_numpy(counts) * logits.double().exp()
    expected = -(weighted[torch.arange(2), targets] / weighted.sum(1)).log().mean()
    found = functional.cross_entropy(logits.double() + torch.from_numpy(adjustment), targets)
    assert found.item() == pytest.approx(expected.item())


def test_effective_numbers_follow_their_equation_and_their_limits() -> None:
    counts = np.array([500, 20])
    found = correct("weights", (500, 20), beta=0.99).loss_weights
    raw = np.array([(1 - 0.99) / (1 - 0.99**500), (1 - 0.99) / (1 - 0.99**20)])
    assert found == pytest.approx(raw * 2 / raw.sum())
    assert effective_number_weights(counts, 0.0) == pytest.approx([1, 1])
    inverse = 1 / counts
    assert effective_number_weights(counts, 1 - 1e-9) == pytest.approx(inverse * 2 / inverse.sum(), rel=1e-3)


def test_a_disabled_sampler_leaves_the_others() -> None:
    assert parts(correct("auto", (100, 10), uniform_weights)) == [False, False, True]
    assert parts(correct("weights", (100, 10), uniform_weights)) == [False, True, False]
    with pytest.raises(UserError, match="contradict"):
        correct("sampler", (100, 10), uniform_weights)


def test_a_sampler_of_the_users_goes_before_auto_and_with_no_other_correction() -> None:
    manual = functools.partial(manual_weights, weights={"b": 3.0})
    for switch in ("auto", "sampler"):
        chosen = correct(switch, (100, 10), manual)
        assert chosen.sampler_weights == pytest.approx([1, 3])
        assert parts(chosen) == [True, False, False]
    with pytest.raises(UserError, match="both chosen"):
        correct("none", (100, 10), manual)


def test_two_corrections_that_were_asked_for_share_the_work() -> None:
    half = functools.partial(inverse_frequency_weights, power=0.5)
    chosen = correct("logit_adjust", (100, 4), half)
    # The draw shows a's and b's images 10:2, and the logits are adjusted to that, not to 100:4.
    assert chosen.logit_adjustment == pytest.approx(np.log([10 / 12, 2 / 12]))
    assert parts(chosen) == [True, False, True]
    assert "drawn as sampler= says" in chosen.words
    assert "5.0:1, logits adjusted" in chosen.words
    with pytest.raises(UserError, match="leaves nothing to correct"):
        correct("logit_adjust", (100, 4), inverse_frequency_weights)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    targets = np.repeat([0, 1, 2], [50, 5, 20])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert balanced_weights(np.bincount(targets)) == pytest.approx(expected)
