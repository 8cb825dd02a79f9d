"""Rows by column are the rows that were given."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from classifier_training.data import samples as module
from classifier_training.data.samples import Sample, Samples

ROWS = (
    Sample("a/1.jpg", "a", "train", "g", {"site": "x", "n": 1}),
    Sample("b/2.jpg", "b"),
    Sample("b/3.jpg", "", "val", "", {"n": True, "tags": ["x"], "none": None}),
    Sample("a/1.jpg", "b", "train", "h", {"n": 1.0, "tags": ["x"]}),
)


def test_rows_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (2, 1000):
        monkeypatch.setattr(module, "CHUNK", chunk)
        table = Samples.of(ROWS)
        assert table == ROWS
        assert tuple(table) == ROWS
        assert [row.metadata for row in table] == [row.metadata for row in ROWS]
        assert [type(row.metadata["n"]) for row in table if row.metadata] == [int, bool, float]
        assert table[-1] == ROWS[-1]
        assert table[-1].metadata == ROWS[-1].metadata
        assert table[1:3] == ROWS[1:3]
        assert table[np.array([3, 0])] == (ROWS[3], ROWS[0])
        assert pickle.loads(pickle.dumps(table)) == ROWS
    assert Samples.of(table) is table
    assert len(Samples.of(())) == 0


def test_tables_are_joined() -> None:
    joined = Samples.joined([Samples.of(ROWS[1:2]), Samples.of(ROWS)])
    assert joined == (ROWS[1], *ROWS)
    assert [row.metadata for row in joined] == [None, *(row.metadata for row in ROWS)]


def test_columns_are_replaced() -> None:
    table = Samples.of(ROWS).with_columns(splits=["test"] * 4, groups=(str(n) for n in range(4)))
    assert [row.split for row in table] == ["test"] * 4
    assert [*table.groups] == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="3 labels for 4 samples"):
        table.with_columns(labels=["a"] * 3)
