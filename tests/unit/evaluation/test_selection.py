"""Which unlabelled images are chosen: by doubt, by distance, or by both."""

from __future__ import annotations

import numpy as np
import pytest

from classifier_training.evaluation.selection import STRATEGIES, Strategy, choose_next, margins

LABELLED = np.array([[1, 0, 0]], dtype=np.float32)
FEATURES = np.array([[1, 0.01, 0], [0, 1, 0], [0, 1, 0.02], [0, 0, 1]], dtype=np.float32)
DOUBTS = np.array([[0.51, 0.49, 0], [0.55, 0.45, 0], [0.6, 0.4, 0], [0.98, 0.01, 0.01]], dtype=np.float32)


def chosen(strategy: Strategy, number: int) -> list[int]:
    return [int(row) for row in choose_next(DOUBTS, FEATURES, LABELLED, number, strategy=strategy).rows]


def test_each_way_chooses_what_it_is_for() -> None:
    assert np.allclose(margins(DOUBTS), [0.02, 0.1, 0.2, 0.97])
    assert chosen("margin", 3) == [0, 1, 2]
    assert chosen("entropy", 4)[-1] == 3
    # The first has a labelled image at the same place, and of the two twins one is enough.
    assert set(chosen("k_centre", 2)) == {3, 1}
    assert chosen("margin_k_centre", 2) == [1, 3]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_way_gives_distinct_images_and_all_where_there_are_fewer(strategy: Strategy) -> None:
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(4), size=60)
    features = random.normal(size=(60, 5))
    found = choose_next(shares, features, features[:3], 20, strategy=strategy, seed=1)
    assert len(set(found.rows.tolist())) == len(found.scores) == 20
    assert sorted(choose_next(shares, features, features[:3], 99, strategy=strategy).rows.tolist()) == list(range(60))
    again = choose_next(shares, features, features[:3], 20, strategy=strategy, seed=1)
    assert (again.rows == found.rows).all()


def test_without_labelled_images_the_first_is_the_one_in_doubt() -> None:
    found = choose_next(DOUBTS, FEATURES, FEATURES[:0], 2, strategy="margin_k_centre")
    assert found.rows[0] == 0
