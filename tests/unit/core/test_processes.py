from __future__ import annotations

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from classifier_training.core.processes import Rank, Share, hold, is_held, process_rank, work_in
from classifier_training.core.run_dir import RunDir

if TYPE_CHECKING:
    from pathlib import Path


def test_whoever_waits_for_a_lock_whose_file_is_removed_holds_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"

    def take() -> bool:
        with hold(path):
            return is_held(path)

    with ThreadPoolExecutor(1) as pool:
        with hold(path):
            waiting = pool.submit(take)
            time.sleep(0.2)
            path.unlink()
        assert waiting.result(20)


def test_where_files_cannot_be_locked_nobody_waits_and_a_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("classifier_training.core.processes.fcntl.flock", refuse)
    with hold(tmp_path / "lock") as is_taken:
        assert is_taken
        assert not is_held(tmp_path / "lock")
    assert not caplog.text
    with work_in(RunDir(tmp_path)):
        assert "cannot be locked" in caplog.text


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
