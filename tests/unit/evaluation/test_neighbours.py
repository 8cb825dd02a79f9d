"""Nearest neighbours: exact, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest

from classifier_training.evaluation import neighbours
from classifier_training.evaluation.neighbours import nearest, unit_vectors


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_neighbours_are_those_of_all_cosines(chunk: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    random = np.random.default_rng(0)
    features: np.ndarray = random.normal(size=(50, 6)).astype(dtype)
    queries: np.ndarray = random.normal(size=(11, 6)).astype(dtype)
    found = nearest(features, queries, 4)
    cosines = unit_vectors(queries) @ unit_vectors(features).T
    assert (found.rows == np.argsort(-cosines, axis=1)[:, :4]).all()
    assert np.allclose(found.similarities, -np.sort(-cosines, axis=1)[:, :4], atol=1e-6)


def test_of_equally_near_ones_the_first_comes_first_and_all_are_given_where_there_are_fewer() -> None:
    features = np.array([[1, 0], [2, 0], [0, 0], [0, 1]], dtype=np.float32)
    found = nearest(features, features[:1], 9)
    assert found.rows.tolist() == [[0, 1, 2, 3]]
    assert found.similarities.tolist() == [[1, 1, 0, 0]]


def test_no_queries_have_no_neighbours() -> None:
    assert nearest(np.ones((3, 2)), np.ones((0, 2)), 2).rows.shape == (0, 2)
