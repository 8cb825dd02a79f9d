from __future__ import annotations

import numpy as np
import pytest

from classifier_training.core.types import SplitTable, Weights, spread_rows


def test_weights_say_their_license_or_that_none_is_stated() -> None:
    assert str(Weights("resnet18.a1_in1k", "Hugging Face Hub", "apache-2.0")) == (
        "resnet18.a1_in1k (Hugging Face Hub; license: apache-2.0)"
    )
    assert str(Weights("mine.pt", "file /mine.pt")) == "mine.pt (file /mine.pt; license not stated)"


def test_weights_are_read_back_and_anything_else_is_none() -> None:
    for weights in (Weights("a", "b", "c"), Weights("a", "b")):
        assert Weights.from_dict(weights.to_dict()) == weights
    assert Weights.from_dict({"name": "a", "source": "b", "license": 3, "more": 1}) == Weights("a", "b")


@pytest.mark.parametrize("found", [None, "a", [], {}, {"name": "a"}, {"name": 1, "source": "b"}])
def test_what_is_no_record_of_weights_is_none(found: object) -> None:
    assert Weights.from_dict(found) is None


@pytest.mark.parametrize(
    ("num_rows", "number", "rows"),
    [(10, 3, [0, 4, 9]), (10, 1, [0]), (10, 10, list(range(10))), (10, 99, list(range(10))), (0, 5, [])],
)
def test_rows_are_spread_over_all_of_them(num_rows: int, number: int, rows: list[int]) -> None:
    assert spread_rows(num_rows, number).tolist() == rows


def test_rows_of_a_split_keep_their_paths_targets_and_groups() -> None:
    table = SplitTable("train", [str(row) for row in range(10)], np.arange(10), [f"g{row}" for row in range(10)])
    found = table.at(np.array([7, 2]))
    assert (found.name, found.paths, found.targets.tolist()) == ("train", ["7", "2"], [7, 2])
    assert found.groups == ["g7", "g2"]
