"""Label sets: against the definition, and by their coverage over resplits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from classifier_training.core.types import softmax
from classifier_training.evaluation.calibration import fit_temperature
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.label_sets import TrueScores, label_sets, needed_images

COVERAGE = 0.9


def drawn(number: int, *, classes: int = 4, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits of a network that is too sure, and targets."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, (number, classes))
    return np.asarray(2 * honest, dtype=np.float32), (honest + random.gumbel(size=honest.shape)).argmax(axis=1)


def test_the_threshold_is_the_score_at_the_ceiling() -> None:
    shares, targets = softmax(drawn(200)[0]), drawn(200)[1]
    for number in (9, 10, 57, 200):
        scores = TrueScores.of(shares[:number], targets[:number])
        place = int(np.ceil(COVERAGE * (number + 1)))
        expected = np.sort(shares[np.arange(number), targets[:number]])[::-1][place - 1]
        assert scores.threshold(COVERAGE) == pytest.approx(expected, abs=1e-6)
        assert scores.threshold(COVERAGE) <= expected
    assert [needed_images(wanted) for wanted in (0.8, 0.9, 0.95, 0.99)] == [4, 9, 19, 99]
    few = TrueScores.of(shares[:8], targets[:8])
    assert (few.allows(0.9), few.threshold(0.9)) == (False, 0)


def test_the_most_probable_class_is_always_in_the_set() -> None:
    sets = label_sets(np.array([[0.4, 0.35, 0.25], [0.7, 0.2, 0.1]]), 0.5)
    assert sets.tolist() == [[True, False, False], [True, False, False]]
    by_class = label_sets(np.array([[0.4, 0.35, 0.25]]), np.array([0.5, 0.3, 0.0]))
    assert by_class.tolist() == [[True, True, True]]


def test_the_coverage_holds_over_a_thousand_resplits() -> None:
    logits, targets = drawn(600)
    shares = softmax(logits)
    random = np.random.default_rng(1)
    covered, by_class = np.empty(1000), np.empty((1000, 4))
    for place in range(1000):
        order = random.permutation(600)
        fitted, held_out = order[:200], order[200:]
        scores = TrueScores.of(shares[fitted], targets[fitted])
        for found, thresholds in (
            (covered, scores.threshold(COVERAGE)),
            (by_class, scores.class_thresholds(COVERAGE, 4)),
        ):
            hits = label_sets(shares[held_out], thresholds)[np.arange(400), targets[held_out]]
            counts = np.bincount(targets[held_out], minlength=4)
            of_classes = np.bincount(targets[held_out], hits, minlength=4) / counts
            found[place] = hits.mean() if found is covered else of_classes
    # The mean is between 0.9 and 0.9 + 1 / 201.
    assert 0.897 <= covered.mean() <= 0.91
    assert covered.std() < 0.04
    assert (by_class.mean(axis=0) >= 0.895).all()


def test_a_temperature_fitted_on_the_same_images_leaves_the_coverage() -> None:
    logits, targets = drawn(600)
    random = np.random.default_rng(1)
    covered = []
    for _ in range(150):
        order = random.permutation(600)
        fitted, held_out = order[:150], order[150:]
        shares = softmax(logits / np.float32(fit_temperature(logits[fitted], targets[fitted])))
        threshold = TrueScores.of(shares[fitted], targets[fitted]).threshold(COVERAGE)
        covered.append(label_sets(shares[held_out], threshold)[np.arange(450), targets[held_out]].mean())
    assert 0.89 <= np.mean(covered) <= 0.915


def test_a_class_with_too_few_images_is_in_every_set() -> None:
    shares, targets = softmax(drawn(100)[0]), drawn(100)[1]
    rows = (targets != 3) | (np.cumsum(targets == 3) <= 5)
    found = TrueScores.of(shares[rows], targets[rows]).class_thresholds(COVERAGE, 4)
    assert found[3] == 0 < found[:3].min()


def test_new_groups_are_covered_by_sets_from_groups_and_not_by_sets_from_images() -> None:
    random = np.random.default_rng(3)
    covered: dict[str, list[float]] = {"groups": [], "images": []}
    for _ in range(400):
        # A hard group has many images, so that images alone would follow it, or miss it.
        sizes = np.where(random.random(30) < 0.15, 40, 4)
        hard = np.repeat(sizes > 4, sizes)
        probability = np.clip(np.where(hard, 0.95, 0.5) + random.normal(0, 0.04, len(hard)), 0.01, 0.999)
        shares = np.stack([probability, 1 - probability], axis=1)
        targets, groups = np.zeros(len(hard), int), Groups(np.repeat(np.arange(30), sizes))
        new = np.clip(np.where(random.random(200) < 0.15, 0.95, 0.5) + random.normal(0, 0.04, 200), 0.01, 0.999)
        for how, given in (("groups", groups), ("images", None)):
            threshold = TrueScores.of(shares, targets, given).threshold(COVERAGE)
            covered[how].append(float((new >= threshold).mean()))
    assert np.mean(covered["groups"]) >= 0.895
    assert np.mean(covered["images"]) <= 0.89


def test_scores_survive_json_and_cut_ones_are_refused() -> None:
    shares, targets = softmax(drawn(50)[0]), drawn(50)[1]
    for groups in (None, Groups(np.arange(50) // 5)):
        scores = TrueScores.of(shares, targets, groups)
        again = TrueScores.from_dict(scores.to_dict())
        assert again.threshold(0.8) == scores.threshold(0.8) > 0
        assert (again.groups is None) == (groups is None)
        with pytest.raises(ValueError, match="lists of 3 and 50 values"):
            TrueScores.from_dict({**scores.to_dict(), "targets": [0, 1, 2]})
