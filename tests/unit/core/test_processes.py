from __future__ import annotations

import pytest

from classifier_training.core.processes import Rank, Share, process_rank


def test_shares_take_every_key_once_and_differ_by_one_at_the_most() -> None:
    for number in range(12):
        for num_ranks in (1, 2, 3, 5):
            parts = [Share(rank, num_ranks).of(list(range(number))) for rank in range(num_ranks)]
            assert sorted(key for part in parts for key in part) == list(range(number))
            sizes = [len(part) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_a_process_learns_from_its_environment_which_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_rank() == Rank()
    assert process_rank().leads
    assert process_rank().is_alone
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    # Other programs set some of them, too.
    assert process_rank() == Rank()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    assert process_rank() == Rank(rank=3, num_ranks=4, local_rank=1, num_local=2, node=1)
    assert process_rank().share == Share(3, 4)
