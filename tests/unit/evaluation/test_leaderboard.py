"""Ranks, the Pareto front, and what can be told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from classifier_training.evaluation.figures.curves import RocFigure
from classifier_training.evaluation.figures.leaderboard import ParetoFigure
from classifier_training.evaluation.figures.training import ImportancesFigure, ParallelFigure, SearchHistoryFigure
from classifier_training.evaluation.leaderboard import (
    BEST,
    UNCLEAR,
    UNCOMPARED,
    WORSE,
    Candidate,
    RunPredictions,
    RunScores,
    compared_seeds,
    macro_roc,
    middle_seed,
    pareto_front,
    rank,
)


def figures(score: float, **others: float) -> RunScores:
    metrics = {"balanced_accuracy": score, "accuracy": score, "macro_f1": score}
    costs: dict[str, Any] = {"train_seconds": 1.0, "size_mb": 1.0, "memory_mb": 1.0, **others}
    return RunScores(metrics=metrics, **costs)


def predictions(num_right: int, *, number: int = 200, folder: str = "a") -> RunPredictions:
    paths = [f"{folder}/{place}.png" for place in range(number)]
    return RunPredictions(
        targets={path: str(place % 2) for place, path in enumerate(paths)},
        correct=frozenset(paths[:num_right]),
        false_positive_rates=[0.0, 1.0],
        true_positive_rates=[0.0, 1.0],
    )


def candidate(model: str, num_right: int, *, latency_ms: float = 1.0, folder: str = "a") -> Candidate:
    score = num_right / 200
    runs = {0: figures(score - 0.01), 1: figures(score), 2: figures(score + 0.01)}
    return Candidate(
        model=model,
        data="images",
        runs=runs,
        representative=middle_seed(runs),
        latency_ms=latency_ms,
        predictions=predictions(num_right, folder=folder),
    )


def test_candidates_are_ranked_and_told_apart_on_the_same_images() -> None:
    (board,) = rank([candidate("poor", 120), candidate("good", 180, latency_ms=3), candidate("near", 178)])
    assert [item.candidate.model for item in board.standings] == ["good", "near", "poor"]
    assert [item.verdict for item in board.standings] == [BEST, UNCLEAR, WORSE]
    assert board.verdict == (
        "images: good has the highest balanced accuracy of 0.9000 ± 0.0100 over 3 seeds, but these images do not tell "
        "it from near, of which near predicts 3.0 times as fast."
    )
    row = board.standings[0].to_dict()
    assert row["balanced_accuracy_deviation"] == pytest.approx(0.01)
    assert row["seeds"] == [0, 1, 2]


def test_each_purpose_has_its_model() -> None:
    (board,) = rank(
        [candidate("poor", 120, latency_ms=0.5), candidate("good", 180, latency_ms=3), candidate("near", 178)]
    )
    found = {choice.purpose: choice.standing.candidate.model for choice in board.choices}
    assert found == {
        "highest accuracy": "good",
        "fastest prediction at that accuracy": "near",
        "fastest prediction of all (worse than the best)": "poor",
        # Of equals the more accurate one.
        "smallest file at that accuracy": "good",
        "shortest training at that accuracy": "good",
    }


def test_a_clear_winner_is_named_with_its_lead() -> None:
    (board,) = rank([candidate("poor", 120), candidate("good", 180)])
    assert "good is the best, with a balanced accuracy of 0.9000 ± 0.0100 over 3 seeds, 0.3000 ahead" in board.verdict
    found = board.standings[1].p_value
    assert found is not None
    assert 0 < found < 1e-10
    assert f"(p = {found:.2g}, adjusted for all pairs)" in board.verdict


def test_one_seed_tells_of_runs_and_not_of_models() -> None:
    good, poor = (
        replace(item, runs={0: item.runs[0]}, representative=0)
        for item in (candidate("good", 180), candidate("poor", 120))
    )
    (board,) = rank([good, poor])
    assert board.standings[1].verdict == WORSE
    assert "other seeds may order the models otherwise" in board.verdict


def test_models_whose_seeds_overlap_are_not_told_apart() -> None:
    shaky = candidate("shaky", 150)
    shaky = replace(shaky, runs={0: figures(0.95), 1: figures(0.75), 2: figures(0.55)})
    (board,) = rank([candidate("good", 180), shaky])
    assert board.standings[1].p_value is not None
    assert board.standings[1].p_value < 0.01
    assert board.standings[1].verdict == UNCLEAR
    assert "these seeds do not tell it from shaky" in board.verdict


def test_the_best_of_many_equals_is_not_called_better() -> None:
    """The best is chosen by the same images, so ten equal models are 45 pairs."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(40):
        hardness = random.beta(1.5, 8, 200)
        models = []
        for number in range(10):
            hits = random.random(200) > hardness
            paths = [f"{place}.png" for place in range(200)]
            one = candidate(f"model {number}", 100)
            score = float(np.mean([hits[::2].mean(), hits[1::2].mean()]))
            correct = frozenset(path for path, hit in zip(paths, hits, strict=True) if hit)
            answers = replace(one.predictions, targets={p: str(n % 2) for n, p in enumerate(paths)}, correct=correct)
            models.append(replace(one, runs={0: figures(score)}, representative=0, predictions=answers))
        (board,) = rank(models)
        wrong += any(item.verdict == WORSE for item in board.standings)
    assert wrong <= 4


def test_other_images_are_not_compared() -> None:
    (board,) = rank([candidate("good", 180), candidate("other", 100, folder="b")])
    assert board.standings[1].verdict == UNCOMPARED
    assert board.standings[1].p_value is None


def test_the_run_in_the_middle_stands_for_a_candidate() -> None:
    assert middle_seed({4: figures(0.5), 5: figures(0.9), 6: figures(0.7)}) == 6
    assert middle_seed({4: figures(0.5), 5: figures(0.9)}) == 4


def test_runs_of_one_seed_are_compared_which_have_the_same_test_images() -> None:
    weak, best = (
        {0: figures(0.4), 1: figures(0.6), 2: figures(0.5)},
        {0: figures(0.7), 1: figures(0.9), 2: figures(0.8)},
    )
    assert compared_seeds([weak, best]) == [2, 2]
    assert compared_seeds([{5: figures(0.3)}, best]) == [5, 2]


def test_models_without_a_test_image_in_common_have_no_best() -> None:
    (board,) = rank([candidate("a", 150), candidate("b", 100, folder="b")])
    assert "is the best" not in board.verdict
    assert "no test image in common, so it is not compared with b" in board.verdict


def test_the_front_holds_what_nobody_beats() -> None:
    infinite = float("inf")
    assert pareto_front([(-0.9, 3), (-0.8, 1), (-0.8, 2), (-0.7, infinite), (-0.9, 3)]) == [
        True, True, False, False, True,
    ]  # fmt: skip


def test_the_macro_roc_has_the_area_that_scikit_learn_gives() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 500)
    logits = random.normal(size=(500, 3)) + 1.5 * np.eye(3)[targets]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    alarms, hits = macro_roc(probabilities, targets)
    assert np.trapezoid(hits, alarms) == pytest.approx(
        roc_auc_score(targets, probabilities, multi_class="ovr", average="macro"), abs=0.005
    )
    assert macro_roc(probabilities, np.zeros(500, dtype=np.int64)) == ([], [])


def test_the_figures_are_painted(tmp_path: Path) -> None:
    painted = {
        "pareto": ParetoFigure(
            names=["a", "b"], costs=[1.0, 2.0], scores=[0.5, 0.6], deviations=[0.0, 0.1], on_front=[True, True],
            cost_label="ms", title="t",
        ),
        "roc": RocFigure(curves={"a": ([0.0, 1.0], [0.0, 1.0])}, title="t"),
        "history": SearchHistoryFigure(
            numbers=[0, 2], scores=[0.4, 0.6], pruned_numbers=[1], pruned_scores=[0.2], is_high_good=True
        ),
        "importances": ImportancesFigure(shares={"optimizer.lr": 0.7, "model.dropout": 0.3}),
        "parallel": ParallelFigure(
            axes={"optimizer.lr": True, "model.dropout": False, "optimizer": None},
            values=[[1e-3, 0.1, "sgd"], [1e-2, 0.1, "adamw"]],
            scores=[0.4, 0.6],
        ),
    }  # fmt: skip
    for name, figure in painted.items():
        figure.save(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 2000


def test_the_folds_of_a_run_are_one_run_with_their_spread() -> None:
    folds = RunScores.of_folds([figures(0.8), figures(0.9)], size_mb=3.0)
    candidate = Candidate(
        model="m", data="d", runs={0: folds}, representative=0, latency_ms=None, predictions=predictions(100)
    )
    found = candidate.spread("balanced_accuracy")
    assert found is not None
    assert found.mean == pytest.approx(0.85)
    assert found.deviation == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert folds.train_seconds == 2.0
    assert "over 2 folds" in rank([candidate])[0].verdict
