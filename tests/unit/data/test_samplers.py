from __future__ import annotations

import numpy as np
import pytest

from classifier_training.core.errors import UserError
from classifier_training.data import samplers
from classifier_training.data.samplers import (
    EpochSampler,
    batch_sizes,
    inverse_frequency_weights,
    manual_weights,
    uniform_weights,
)

COUNTS, NAMES = np.array([100, 10, 1]), ("a", "b", "c")
TARGETS = np.repeat([0, 1, 2], COUNTS)


def test_uniform_takes_every_sample_once_in_an_order_of_its_epoch() -> None:
    assert uniform_weights(COUNTS, NAMES) is None
    sampler = EpochSampler(TARGETS, seed=1)
    assert sorted(sampler.order(0)) == list(range(111))
    assert (sampler.order(0) == EpochSampler(TARGETS, seed=1).order(0)).all()
    assert (sampler.order(0) != sampler.order(1)).any()
    assert (sampler.order(0) != EpochSampler(TARGETS, seed=2).order(0)).any()


def test_inverse_frequency_draws_all_classes_alike() -> None:
    sampler = EpochSampler(TARGETS, inverse_frequency_weights(COUNTS, NAMES), seed=0)
    draws = np.sum([sampler.draws(epoch, 3) for epoch in range(100)], axis=0)
    assert draws.sum() == 11100
    assert draws / draws.sum() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_the_order_of_a_weighted_epoch_is_that_of_numpy_choice() -> None:
    for weights in (np.array([1.0, 3.0, 0.5]), np.array([0.0, 1.0, 7.0])):
        sampler = EpochSampler(TARGETS, weights, seed=3)
        odds = weights[TARGETS] / weights[TARGETS].sum()
        for epoch in range(20):
            chosen = np.random.default_rng([3, epoch]).choice(111, size=111, p=odds)
            assert sampler.order(epoch).tolist() == chosen.tolist()


def test_an_epoch_may_begin_within_a_chunk_of_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "CHUNK", 16)
    sampler = EpochSampler(TARGETS, seed=1)
    whole = list(sampler)
    assert [key.row for key in whole] == sampler.order(0).tolist()
    sampler.start_at(37)
    assert list(sampler) == whole[37:]


def test_the_power_goes_half_way() -> None:
    weights = inverse_frequency_weights(COUNTS, NAMES, power=0.5) * COUNTS
    assert weights / weights[2] == pytest.approx([10, 10**0.5, 1])


def test_manual_weights_go_by_name_and_default_to_one() -> None:
    assert manual_weights(COUNTS, NAMES, weights={"c": 5.0, "a": 0.0}).tolist() == [0.0, 1.0, 5.0]
    with pytest.raises(UserError, match="no class of this data"):
        manual_weights(COUNTS, NAMES, weights={"d": 1.0})
    with pytest.raises(UserError, match="all 0"):
        manual_weights(COUNTS, NAMES, weights=dict.fromkeys(NAMES, 0.0))


def test_keys_tell_epoch_and_position_so_that_a_repeat_is_another_draw() -> None:
    sampler = EpochSampler(TARGETS, inverse_frequency_weights(COUNTS, NAMES), seed=0)
    sampler.set_epoch(7)
    keys = list(sampler)
    assert len(keys) == len(sampler) == 111
    assert [key.position for key in keys] == list(range(111))
    assert {key.epoch for key in keys} == {7}
    assert len({key.row for key in keys}) < len(keys) == len(set(keys))


def test_evaluation_keeps_the_order() -> None:
    assert EpochSampler(TARGETS).order(5).tolist() == list(range(111))


@pytest.mark.parametrize(
    ("num_images", "options", "sizes"),
    [
        (104, {"batch_size": 64}, [52, 52]),
        (128, {"batch_size": 64}, [64, 64]),
        (65, {"batch_size": 64, "smallest": 2}, [33, 32]),
        (3, {"batch_size": 64, "smallest": 2}, [3]),
        # Every step has the gradients of as many batches.
        (200, {"batch_size": 64, "per_step": 2}, [50] * 4),
        (130, {"batch_size": 64, "per_step": 4}, [33, 33, 32, 32]),
        # As far as images allow it.
        (10, {"batch_size": 4, "per_step": 8, "smallest": 2}, [2] * 5),
        # A batch norm cannot take one image; processes that share batches need as many as they are.
        (5, {"batch_size": 2, "smallest": 2}, [2, 2]),
        (17, {"batch_size": 8, "smallest": 8}, [8, 8]),
    ],
)
def test_batches_are_even_and_leave_nothing_out_that_can_be_trained_on(
    num_images: int, options: dict[str, int], sizes: list[int]
) -> None:
    assert batch_sizes(num_images, **options) == sizes


def test_no_batch_is_too_large_and_only_small_ones_are_left_out() -> None:
    for num_images in range(2, 60):
        for batch_size in range(1, 20):
            for smallest in (1, 2, 4):
                sizes = batch_sizes(num_images, batch_size, smallest=smallest)
                assert max(sizes) <= batch_size
                assert max(sizes) - min(sizes) <= 1
                left = num_images - sum(sizes)
                assert left == 0 or (left < batch_size and num_images // (len(sizes) + 1) < smallest)
