from __future__ import annotations

import numpy as np

from classifier_training.callbacks.plots import choose_samples
from classifier_training.core.types import SplitResult


def result(num_wrong: int, num_right: int) -> SplitResult:
    total = num_wrong + num_right
    logits = np.zeros((total, 2), dtype=np.float32)
    logits[:, 0] = np.linspace(1, 5, total)
    targets = np.array([1] * num_wrong + [0] * num_right)
    return SplitResult("val", logits, targets, np.arange(total), np.zeros(total, np.float32))


def test_the_surest_mistakes_come_first_and_take_half_of_the_grid_at_most() -> None:
    chosen = choose_samples(result(20, 20), 16, seed=0)
    assert chosen[:8].tolist() == [19, 18, 17, 16, 15, 14, 13, 12]
    assert (chosen[8:] >= 20).all()
    assert len(set(chosen.tolist())) == 16


def test_right_answers_fill_what_mistakes_leave() -> None:
    assert len(choose_samples(result(1, 30), 16, seed=0)) == 16
    assert len(choose_samples(result(0, 3), 16, seed=0)) == 3
    assert len(choose_samples(result(3, 0), 16, seed=0)) == 3
