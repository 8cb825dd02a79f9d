from __future__ import annotations

import pytest

from classifier_training.core.processes import Follower, Share, following


def test_shares_take_every_key_once_and_differ_by_one_at_the_most() -> None:
    for number in range(12):
        for num_ranks in (1, 2, 3, 5):
            parts = [Share(rank, num_ranks).of(list(range(number))) for rank in range(num_ranks)]
            assert sorted(key for part in parts for key in part) == list(range(number))
            sizes = [len(part) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_a_process_learns_from_its_environment_whom_it_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert following() is None
    told = Follower(rank=1, num_ranks=2, leader=77, port=40_000, checkpoint=None)
    for name, value in told.environment().items():
        monkeypatch.setenv(name, value)
    assert following() == told
