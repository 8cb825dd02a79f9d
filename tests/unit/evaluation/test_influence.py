"""Influence of training images on a prediction, against heads that are really fitted without them."""

from __future__ import annotations

import numpy as np
import pytest

from classifier_training.evaluation.influence import MAX_CHANGED, LogisticHead, fit_head

Cluster = tuple[np.ndarray, np.ndarray]


def clusters(number: int, *, seed: int, width: int = 8) -> Cluster:
    """Images of three classes that overlap a little: features [3 * number, D] and targets."""
    random = np.random.default_rng(seed)
    centres = np.eye(3, width) * 3
    targets = np.repeat(np.arange(3), number)
    return (centres[targets] + random.normal(size=(len(targets), width))).astype(np.float16), targets


def fitted(train: Cluster) -> LogisticHead:
    return fit_head(*train, *clusters(30, seed=9), num_classes=3)


def refitted(head: LogisticHead, query: np.ndarray, rows: list[int], label: int | None) -> int:
    """What a head predicts that is fitted from nothing, the rows left out or labelled otherwise."""
    targets, weights = head.targets.copy(), np.ones(len(head.targets), dtype=np.float32)
    if label is None:
        weights[rows] = 0
    else:
        targets[rows] = label
    found = head.fit(targets, weights)
    return int((found[:, :-1] @ head.projected(query[None])[0] + found[:, -1]).argmax())


@pytest.fixture
def misled() -> tuple[LogisticHead, np.ndarray, list[int]]:
    """A head that four mislabelled images near a query mislead, the query's features, and their places."""
    values, targets = clusters(40, seed=0)
    query = np.zeros(8)
    query[0], query[7] = 3, 9
    near = query + np.random.default_rng(1).normal(size=(4, 8)) * 0.1
    head = fitted((np.concatenate([values, near]).astype(np.float16), np.append(targets, [1, 1, 1, 1])))
    return head, query, [120, 121, 122, 123]


def test_the_images_that_misled_the_head_are_found_and_a_fit_confirms_it(
    misled: tuple[LogisticHead, np.ndarray, list[int]],
) -> None:
    head, query, wrong = misled
    assert head.logits(query[None]).argmax() == 1
    removed = head.find_flip(query, 0, "remove")
    assert removed is not None
    assert set(removed.rows) <= set(wrong)
    assert refitted(head, query, list(removed.rows), None) == 0
    # None of them is there for nothing.
    for row in removed.rows:
        assert refitted(head, query, [other for other in removed.rows if other != row], None) != 0
    relabelled = head.find_flip(query, 0, "relabel")
    assert relabelled is not None
    assert set(relabelled.rows) <= set(wrong)
    assert len(relabelled.rows) <= len(removed.rows)
    assert refitted(head, query, list(relabelled.rows), 0) == 0


def test_no_set_is_given_where_none_is_large_enough_and_none_is_needed_for_what_is_right(
    misled: tuple[LogisticHead, np.ndarray, list[int]],
) -> None:
    head, query, wrong = misled
    assert head.find_flip(query, 0, "remove", max_changed=1) is None
    assert head.find_flip(query, 2, "remove", max_changed=MAX_CHANGED) is None
    kept = head.find_flip(query, 0, "relabel", without=wrong)
    assert kept is None or not set(kept.rows) & set(wrong)
    right = head.find_flip(query, 1, "remove")
    assert right is not None
    assert right.rows == ()


@pytest.mark.parametrize("width", [8, 300])
def test_the_approximated_effects_rank_images_as_fits_without_them_do(width: int) -> None:
    head = fitted_wide = fit_head(*clusters(30, seed=2, width=width), *clusters(30, seed=9, width=width), num_classes=3)
    values, _ = clusters(1, seed=4, width=width)
    point = fitted_wide.projected(values[:1])[0]
    weights = np.ones(len(head.targets), dtype=np.float32)
    found = head.effects(point, 0, 1, "remove", solution=head.solution, targets=head.targets, weights=weights)
    rows = np.argsort(-np.abs(found))[:8]

    def gap(solution: np.ndarray) -> float:
        logits = solution[:, :-1] @ point + solution[:, -1]
        return float(logits[1] - logits[0])

    real = []
    for row in rows:
        others = weights.copy()
        others[row] = 0
        real.append(gap(head.fit(head.targets, others)) - gap(head.solution))
    assert (np.sign(real) == np.sign(found[rows])).all()
    assert np.corrcoef(real, found[rows])[0, 1] > 0.9


def test_what_is_fitted_is_the_minimum_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    head = fitted(clusters(40, seed=3))
    theirs = LogisticRegression(C=1 / (head.penalty * len(head.targets)), max_iter=1000, tol=1e-8)
    theirs.fit(head.features, head.targets)
    # Biases are free up to a constant.
    ours = head.solution - head.solution.mean(axis=0)
    assert np.allclose(ours[:, :-1], theirs.coef_ - theirs.coef_.mean(axis=0), atol=5e-3)
    assert np.allclose(ours[:, -1], theirs.intercept_ - theirs.intercept_.mean(), atol=5e-3)
