from __future__ import annotations

import functools

import numpy as np
import pytest

from classifier_training.core.errors import UserError
from classifier_training.data.samplers import manual_weights, uniform_weights
from classifier_training.training.imbalance import Correction, balanced_weights, correct_imbalance

NAMES = ("a", "b")


def correct(switch: str, counts: tuple[int, int], sampler: object = None) -> Correction:
    return correct_imbalance(switch, sampler, class_counts=np.array(counts), class_names=NAMES)  # type: ignore[arg-type]


def test_auto_leaves_balanced_classes_alone_and_says_why() -> None:
    chosen = correct("auto", (100, 90))
    assert (chosen.sampler_weights, chosen.loss_weights) == (None, None)
    assert "below 1.5" in chosen.words


def test_auto_corrects_unbalanced_classes_once() -> None:
    chosen = correct("auto", (100, 10))
    assert (chosen.sampler_weights is None) != (chosen.loss_weights is None)
    assert "10.0:1" in chosen.words


def test_each_switch_does_what_it_says() -> None:
    assert correct("sampler", (100, 10)).loss_weights is None
    assert correct("sampler", (100, 10)).sampler_weights == pytest.approx([0.01, 0.1])
    assert correct("weights", (100, 10)).sampler_weights is None
    assert correct("weights", (100, 10)).loss_weights == pytest.approx([0.55, 5.5])
    assert correct("none", (100, 10)) == Correction(None, None, "classes 10.0:1, not corrected")


def test_a_disabled_sampler_leaves_the_loss() -> None:
    for switch in ("auto", "weights"):
        chosen = correct(switch, (100, 10), uniform_weights)
        assert chosen.sampler_weights is None
        assert chosen.loss_weights == pytest.approx([0.55, 5.5])
    with pytest.raises(UserError, match="contradict"):
        correct("sampler", (100, 10), uniform_weights)


def test_a_sampler_of_the_users_goes_before_auto_and_with_no_other_correction() -> None:
    manual = functools.partial(manual_weights, weights={"b": 3.0})
    assert correct("auto", (100, 10), manual).sampler_weights == pytest.approx([1, 3])
    with pytest.raises(UserError, match="both chosen"):
        correct("weights", (100, 10), manual)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    targets = np.repeat([0, 1, 2], [50, 5, 20])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert balanced_weights(np.bincount(targets)) == pytest.approx(expected)
