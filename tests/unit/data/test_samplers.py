from __future__ import annotations

import numpy as np
import pytest

from classifier_training.core.errors import UserError
from classifier_training.data import samplers
from classifier_training.data.samplers import (
    EpochSampler,
    Replay,
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


def test_an_epoch_has_all_new_samples_and_a_share_of_old_ones_evenly_over_the_classes() -> None:
    is_old = np.arange(111) < 100 + 10  # All of a and b; the one sample of c is new.
    is_old[90:100] = False
    replay = Replay.of_share(is_old, 0.4)
    # 11 new samples are 60 %: 7 old ones are 40 %.
    assert replay.number == 7
    sampler = EpochSampler(TARGETS, seed=3, replay=replay)
    assert len(sampler) == 18
    drawn = [sampler.order(epoch) for epoch in range(40)]
    for order in drawn:
        assert len(set(order.tolist())) == 18
        assert set(np.flatnonzero(~is_old)) <= set(order.tolist())
        old = TARGETS[order[is_old[order]]]
        assert sorted(np.bincount(old, minlength=3).tolist()) == [0, 3, 4]
    assert (drawn[0] == EpochSampler(TARGETS, seed=3, replay=replay).order(0)).all()
    # Others in each epoch, and the odd one is not always of the same class.
    assert len({order[is_old[order]].min() for order in drawn}) > 5
    assert len({int((TARGETS[order[is_old[order]]] == 0).sum()) for order in drawn}) == 2
    assert not (sampler.order(0)[:11] < 90).all(), "old and new ones are mixed"


def test_replay_takes_what_there_is_and_weights_draw_the_new_ones() -> None:
    is_old = np.arange(111) < 110
    assert Replay.of_share(is_old, 0.999).number == 110
    assert Replay.of_share(is_old, 0.01).number == 1
    rare = Replay(is_old, 50)
    order = EpochSampler(TARGETS, seed=0, replay=rare).order(0)
    # b has 10 samples only.
    assert np.bincount(TARGETS[order]).tolist() == [40, 10, 1]
    is_old = np.arange(111) < 50
    weighted = EpochSampler(TARGETS, np.array([0.0, 0.0, 1.0]), seed=0, replay=Replay(is_old, 5))
    assert np.bincount(TARGETS[weighted.order(0)], minlength=3).tolist() == [5, 0, 61]


def test_a_limited_pass_takes_the_new_samples_first() -> None:
    is_old = np.arange(111) < 90
    found = EpochSampler(TARGETS, seed=0, replay=Replay(is_old, 5)).all_new(31).order(0)
    assert len(found) == 31
    assert set(range(90, 111)) <= set(found.tolist())
    assert sorted(EpochSampler(TARGETS, seed=0).all_new(31).order(0)) == list(range(111))
