from __future__ import annotations

import numpy as np

from classifier_training.evaluation.novelty import MAX_DIMENSIONS, FeatureSubspace, alarm_threshold


def near_a_plane(number: int, *, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(9).normal(size=(20, 3)))[0]
    inside = generator.normal(size=(number, 3)) @ directions.T
    return np.asarray(5 + inside + 0.01 * generator.normal(size=(number, 20)), dtype=np.float32)


def test_what_leaves_the_plane_of_the_training_features_is_found() -> None:
    subspace = FeatureSubspace.fit(near_a_plane(200, seed=0))
    assert subspace.basis.shape == (20, 3)
    assert np.allclose(subspace.basis.T @ subspace.basis, np.eye(3), atol=1e-5)
    own = subspace.scores(near_a_plane(1000, seed=1))
    threshold = alarm_threshold(subspace.scores(near_a_plane(1000, seed=2)))
    assert 0.03 < (own > threshold).mean() < 0.08
    elsewhere = near_a_plane(100, seed=3) + np.random.default_rng(4).normal(size=(100, 20)).astype(np.float32)
    scores = subspace.scores(elsewhere)
    assert (scores > threshold).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_subspace_leaves_a_direction_out_and_bears_equal_features() -> None:
    full = FeatureSubspace.fit(np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32))
    assert full.basis.shape == (4, 3)
    wide = FeatureSubspace.fit(np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32))
    assert wide.basis.shape[1] == MAX_DIMENSIONS
    equal = FeatureSubspace.fit(np.ones((5, 4), dtype=np.float32))
    assert np.isfinite(equal.scores(np.ones((2, 4), dtype=np.float32))).all()


def test_no_more_than_the_share_lies_above_the_threshold() -> None:
    scores = np.arange(100, dtype=np.float32)
    assert (scores > alarm_threshold(scores)).sum() <= 5
    assert (scores > alarm_threshold(scores, false_alarm_rate=0.2)).sum() in (19, 20)
