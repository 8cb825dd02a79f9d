from __future__ import annotations

import copy
from typing import Any

import pytest

from classifier_training.workflows.training.team import mismatch

ONE = {
    "config": {"seed": 0, "data": {"root": "/images"}, "trainer": {"num_devices": "auto"}},
    "versions": {"torch": "2.15.0"},
    "num_local": 2,
    "node": 0,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    one: dict[str, Any] = copy.deepcopy(ONE)
    *above, name = path.split(".")
    found: Any = one
    for key in above:
        found = found[key]
    found[name] = value
    return one


def test_processes_of_one_command_fit() -> None:
    assert mismatch([ONE, changed("node", 1), ONE]) is None


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("config.data.root", "/other", "process 0 was started with data.root=/images, process 2 with data.root=/other"),
        ("config.seed", 1, "process 0 was started with seed=0, process 2 with seed=1"),
        ("num_local", 1, "--nproc-per-node differs between the processes: 2, 1"),
        ("versions.torch", "2.11.0", "the version of torch differs between the processes: 2.15.0, 2.11.0"),
    ],
)
def test_one_that_differs_is_named(path: str, value: object, said: str) -> None:
    error = mismatch([ONE, ONE, changed(path, value)])
    assert error is not None
    assert error.came == said


def test_runs_of_their_own_are_refused() -> None:
    error = mismatch([changed("config.trainer.num_devices", 1)] * 2)
    assert error is not None
    assert "torchrun started 2 processes" in error.came
    assert "trainer=ddp" in error.remedy
