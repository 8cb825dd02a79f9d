"""Every figure against scikit-learn, every interval against its definition."""

from __future__ import annotations

import warnings
from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference
from sklearn.preprocessing import label_binarize

from classifier_training.core import types
from classifier_training.core.errors import UserError
from classifier_training.evaluation import measures, predictions
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.intervals import bootstrap_interval, choose_num_resamples, exact_shares, resample
from classifier_training.evaluation.measures import Measures, measure
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies, watchable_names
from classifier_training.evaluation.predictions import is_among_first, log_softmax
from classifier_training.evaluation.ranking import Ranking

pytestmark = pytest.mark.filterwarnings("error")

CASES = {
    # name: (images, classes, classes that have images, decimals of the logits: few make ties)
    "plain": (300, 8, 8, None),
    "two classes": (200, 2, 2, None),
    "ties": (400, 7, 7, 0),
    "absent classes": (150, 9, 5, 1),
}


def made(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    images, classes, present, decimals = CASES[name]
    random = np.random.default_rng(seed)
    targets = random.integers(0, present, images)
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), targets] += 1
    return (logits if decimals is None else logits.round(decimals)), targets


def values(found: Measures, figure: str) -> np.ndarray:
    return np.array([estimate.value for estimate in found.by_class[figure]])


@pytest.mark.parametrize("case", CASES)
def test_figures_are_scikit_learns(case: str) -> None:
    logits, targets = made(case)
    num_classes = logits.shape[1]
    labels = np.arange(num_classes)
    found = measure(logits, targets, num_classes=num_classes, intervals=False)
    # The reference warns of classes that do not occur; ours has not.
    warnings.simplefilter("ignore")
    overall = {name: estimate.value for name, estimate in found.overall.items()}
    probabilities, predicted = np.exp(log_softmax(logits)), logits.argmax(axis=1)
    expected = {
        "acc_top1": reference.accuracy_score(targets, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, predicted),
        "matthews": reference.matthews_corrcoef(targets, predicted),
        "cohen_kappa": reference.cohen_kappa_score(targets, predicted),
        "loss": reference.log_loss(targets, probabilities, labels=labels),
        "brier": reference.brier_score_loss(
            targets, probabilities if num_classes > 2 else probabilities[:, 1], labels=labels
        ),
    }
    truth = np.eye(num_classes)[targets]
    for average in ("macro", "weighted"):
        scores = reference.precision_recall_fscore_support(targets, predicted, average=average, zero_division=0)
        expected |= {
            f"{average}_{name}": score for name, score in zip(("precision", "recall", "f1"), scores[:3], strict=True)
        }
    for name, value in expected.items():
        assert overall[name] == pytest.approx(value, abs=1e-9), name

    by_class = reference.precision_recall_fscore_support(targets, predicted, labels=labels, zero_division=np.nan)
    for name, scores in zip(("precision", "recall", "f1"), by_class[:3], strict=True):
        np.testing.assert_allclose(values(found, name), scores, atol=1e-9, err_msg=name)
    assert found.support.tolist() == by_class[3].tolist()
    matrices = reference.multilabel_confusion_matrix(targets, predicted, labels=labels)
    np.testing.assert_allclose(values(found, "specificity"), matrices[:, 0, 0] / matrices[:, 0].sum(axis=1), atol=1e-9)
    for number in labels:
        if not truth[:, number].any():
            assert np.isnan([values(found, name)[number] for name in ("auroc", "average_precision", "recall")]).all()
            continue
        column = probabilities[:, number]
        auroc = reference.roc_auc_score(truth[:, number], column)
        assert values(found, "auroc")[number] == pytest.approx(auroc, abs=1e-9)
        area = reference.average_precision_score(truth[:, number], column)
        assert values(found, "average_precision")[number] == pytest.approx(area, abs=1e-9)
    if case in ("plain", "ties"):
        areas = reference.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
        assert overall["macro_auroc"] == pytest.approx(areas, abs=1e-9)
        binarized = label_binarize(targets, classes=labels)
        area = reference.average_precision_score(binarized, probabilities, average="macro")
        assert overall["macro_average_precision"] == pytest.approx(area, abs=1e-9)
    if case == "plain":
        top5 = reference.top_k_accuracy_score(targets, logits, k=5, labels=labels)
        assert overall["acc_top5"] == pytest.approx(top5, abs=1e-9)
    assert ("acc_top5" in overall) == (num_classes > 5)


@pytest.mark.parametrize("case", CASES)
def test_the_calibration_error_is_its_definition(case: str) -> None:
    logits, targets = made(case)
    probabilities = np.exp(log_softmax(logits))
    confidences, right = probabilities.max(axis=1), logits.argmax(axis=1) == targets
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidences > low) & (confidences <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidences[inside].mean() - right[inside].mean())
    found = measure(logits, targets, num_classes=logits.shape[1], intervals=False)
    assert found.overall["ece"].value == pytest.approx(error, abs=1e-9)


def test_probabilities_give_what_their_logits_do() -> None:
    logits, targets = made("plain")
    some = measure(logits, targets, num_classes=8)
    others = measure(np.exp(log_softmax(logits)), targets, num_classes=8, kind="probabilities")
    for name, estimate in some.overall.items():
        assert others.overall[name].value == pytest.approx(estimate.value, abs=1e-9)
        assert others.overall[name].low == pytest.approx(estimate.low, abs=1e-6)


def test_equal_scores_count_for_the_first_class() -> None:
    scores = np.zeros((7, 7))
    assert is_among_first(scores, np.arange(7)).tolist() == [True] * 5 + [False] * 2


def test_shares_have_clopper_and_pearsons_interval() -> None:
    for hits, trials in ((0, 5), (3, 9), (5, 5), (40, 1000)):
        (found,) = exact_shares(np.array([hits]), np.array([trials]))
        expected = stats.binomtest(hits, trials).proportion_ci(method="exact")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.method.startswith("exact")
    assert np.isnan(exact_shares(np.array([0]), np.array([0]))[0].value)


def test_delongs_variance_is_that_of_all_pairs() -> None:
    logits, targets = made("ties")
    positive = targets == 1
    scores = logits[:, 1]
    wins = (scores[positive][:, None] > scores[~positive]) + 0.5 * (scores[positive][:, None] == scores[~positive])
    expected = wins.mean(axis=1).var(ddof=1) / positive.sum() + wins.mean(axis=0).var(ddof=1) / (~positive).sum()
    ranking = Ranking.of(scores, positive)
    assert ranking.auroc == pytest.approx(wins.mean(), abs=1e-12)
    assert ranking.auroc_variance == pytest.approx(expected, rel=1e-9)
    assert (ranking.auroc_influence() ** 2).sum() == pytest.approx(expected, rel=1e-9)


def test_resampled_average_precision_is_that_of_the_drawn_images() -> None:
    logits, targets = made("ties")
    (weights,) = resample(targets, 20)
    found = Ranking.of(logits[:, 2], targets == 2).resampled_average_precisions(weights)
    for column in range(20):
        expected = reference.average_precision_score(targets == 2, logits[:, 2], sample_weight=weights[:, column])
        assert found[column] == pytest.approx(expected, abs=1e-6)


def test_the_influence_on_an_average_precision_is_its_derivative() -> None:
    random = np.random.default_rng(0)
    scores, positive = random.integers(0, 30, 60).astype(float), random.random(60) < 0.4
    ranking = Ranking.of(scores, positive)
    influence, step = ranking.average_precision_influence(), 1e-6
    derivatives = [
        (reference.average_precision_score(positive, scores, sample_weight=1 + step * (np.arange(60) == row))
         - ranking.average_precision) / step
        for row in range(60)
    ]  # fmt: skip
    assert influence == pytest.approx(derivatives, abs=1e-4)
    assert influence.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_by_influences_are_those_of_the_bootstrap(monkeypatch: pytest.MonkeyPatch, *, grouped: bool) -> None:
    random = np.random.default_rng(1)
    targets = random.integers(0, 3, 6000)
    logits = random.normal(size=(6000, 3)) + 1.5 * np.eye(3)[targets]
    groups = Groups(np.arange(6000) // 4) if grouped else None
    resampled = measure(logits, targets, num_classes=3, groups=groups)
    monkeypatch.setattr(measures, "MAX_RESAMPLED", 0)
    found = measure(logits, targets, num_classes=3, groups=groups)
    of_classes = zip(found.by_class["average_precision"], resampled.by_class["average_precision"], strict=True)
    average = "macro_average_precision"
    for one, other in (*of_classes, (found.overall[average], resampled.overall[average])):
        assert one.method.startswith("infinitesimal jackknife")
        assert one.value == other.value
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.12)
    for name, one in found.overall.items():
        assert name == average or one == resampled.overall[name]


@pytest.mark.parametrize("case", CASES)
def test_blocks_of_rows_and_classes_change_no_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = made(case)
    logits = logits.astype(np.float32)
    number = logits.shape[1]
    whole = measure(logits, targets, num_classes=number, temperature=1.7)
    losses = cross_entropies(logits, targets, 1.7)
    monkeypatch.setattr(types, "MAX_BLOCK", 7 * number)
    monkeypatch.setattr(predictions, "MAX_COLUMNS", 2 * len(logits))
    assert repr(measure(logits, targets, num_classes=number, temperature=1.7)) == repr(whole)
    assert np.array_equal(cross_entropies(logits, targets, 1.7), losses)


def test_resamples_keep_every_class_and_follow_from_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = np.array([3, 0, 0, 3, 3, 0, 1])
    (whole,) = resample(targets, 50)
    for label, support in ((0, 3), (1, 1), (3, 3)):
        assert (whole[targets == label].sum(axis=0) == support).all()
    assert len({tuple(column) for column in whole.T.tolist()}) > 20
    monkeypatch.setattr("classifier_training.evaluation.intervals.MAX_CHUNK", 7 * 8)
    parts = list(resample(targets, 50))
    assert len(parts) == 7
    assert (np.concatenate(parts, axis=1) == whole).all()
    assert choose_num_resamples(50_000, 100) == 1000
    assert choose_num_resamples(50_000, 1000) == 200


def test_intervals_are_right_nineteen_times_in_twenty() -> None:
    """The true figures are those of 100,000 images; each interval comes from 300 others."""
    random = np.random.default_rng(7)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        targets = np.sort(random.integers(0, 3, number)) if number > 1000 else np.repeat([0, 1, 2], number // 3)
        logits = random.normal(size=(number, 3))
        logits[np.arange(number), targets] += 1.2
        return logits, targets

    truth = measure(*draw(100_000), num_classes=3, intervals=False)
    names = (
        "acc_top1",
        "balanced_accuracy",
        "macro_f1",
        "matthews",
        "loss",
        "brier",
        "macro_auroc",
        "macro_average_precision",
    )
    covered = dict.fromkeys(names, 0)
    rounds = 60
    for _ in range(rounds):
        found = measure(*draw(300), num_classes=3)
        for name in names:
            covered[name] += found.overall[name].low <= truth.overall[name].value <= found.overall[name].high
    assert all(0.85 * rounds <= number for number in covered.values()), covered
    assert sum(covered.values()) < rounds * len(names), "intervals that never miss are too wide"


@pytest.mark.parametrize(("case", "intervals"), [*product(CASES, [True, False])])
def test_every_figure_names_its_method_and_lies_in_its_interval(case: str, intervals: bool) -> None:
    logits, targets = made(case)
    found = measure(logits, targets, num_classes=logits.shape[1], intervals=intervals)
    for name, estimates in {**{n: [e] for n, e in found.overall.items()}, **found.by_class}.items():
        for estimate in estimates:
            if not intervals or np.isnan(estimate.value) or (name == "f1" and not estimate.value):
                assert (estimate.method, np.isnan(estimate.low)) == ("none", True), name
            else:
                assert estimate.low <= estimate.value <= estimate.high, name
                assert estimate.method in ("exact (Clopper-Pearson)", "DeLong", "bootstrap"), name


def test_odd_splits_are_scored_without_a_warning() -> None:
    one_class = measure(np.array([[2.0, 1], [0, 1], [3, 0]]), np.zeros(3, int), num_classes=2)
    assert one_class.overall["balanced_accuracy"].value == pytest.approx(2 / 3)
    assert one_class.overall["matthews"].value == 0
    assert np.isnan(one_class.overall["macro_auroc"].value)
    never = measure(np.array([[2.0, 1, 0], [1, 0, 0], [3, 0, 0]]), np.array([0, 1, 0]), num_classes=3)
    assert np.isnan(never.by_class["precision"][1].value)
    assert np.isnan(never.by_class["f1"][2].value)
    single = measure(np.array([[2.0, 1]]), np.array([0]), num_classes=2)
    assert single.overall["acc_top1"].high == 1
    perfect = measure(np.eye(3)[[0, 1, 2] * 4] * 9, np.array([0, 1, 2] * 4), num_classes=3)
    assert perfect.overall["balanced_accuracy"].method == "none"  # resamples that do not differ say nothing
    assert perfect.by_class["auroc"][0].low == pytest.approx(0.025 ** (1 / 4))
    assert np.isnan(perfect.overall["macro_auroc"].low)
    large = np.random.default_rng(0).normal(size=(300, 1000)) * 1e4
    many = measure(large, np.arange(300), num_classes=1000)
    assert len(many.by_class["recall"]) == 1000
    assert np.isfinite(many.overall["loss"].value)


@pytest.mark.parametrize(
    ("scores", "targets", "kind", "came"),
    [
        (np.zeros((0, 3)), [], "logits", "no image to score"),
        (
            [[1, 2], [np.nan, 1]],
            [0, 1],
            "logits",
            "1 of 2 predictions hold values that are not finite, the first in row 1",
        ),
        ([[1, 2], [np.inf, 1]], [0, 1], "logits", "not finite"),
        ([[0.5, 0.5], [0.5, 0.6]], [0, 1], "probabilities", "those of row 1 sum to 1.1000"),
        ([[0.5, 0.5], [1.5, -0.5]], [0, 1], "probabilities", "the smallest is -0.5000"),
        ([[1, 2]], [2], "logits", "a class number of 2"),
        ([[1, 2]], [0, 1], "logits", r"predictions of shape \[1, 2\] for 2 images"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(scores: object, targets: list[int], kind: str, came: str) -> None:
    answers = np.array(scores, dtype=float)
    with pytest.raises(UserError, match=came):
        measure(answers, np.array(targets, dtype=int), num_classes=answers.shape[1], kind=kind)  # type: ignore[arg-type]


def test_a_biased_bootstrap_still_holds_its_figure() -> None:
    found = bootstrap_interval(0.1, np.linspace(0.2, 0.3, 100))
    assert found.low == 0.1
    assert found.high == pytest.approx(0.2975, abs=1e-3)


def test_a_watched_figure_is_the_reports() -> None:
    logits, targets = made("plain")
    names = tuple("abcdefgh")
    everything = watchable_names(names)
    logits = logits.astype(np.float32)
    found = classification_metrics(logits, targets, cross_entropies(logits, targets), names, also=everything)
    assert found.keys() == set(everything)
    report = measure(logits, targets, num_classes=8, intervals=False)
    for name, estimate in report.overall.items():
        assert found[name] == pytest.approx(estimate.value, abs=1e-6), name
    for figure, estimates in report.by_class.items():
        watched = "acc" if figure == "recall" else figure
        assert found[f"{watched}_class_c"] == pytest.approx(estimates[2].value, abs=1e-9), figure


def test_images_of_one_group_have_metrics_and_no_interval() -> None:
    targets = np.arange(20) % 3
    logits = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    found = measure(logits, targets, num_classes=3, groups=Groups.of(["session"] * 20)).overall["balanced_accuracy"]
    assert 0 < found.value < 1
    assert np.isnan([found.low, found.high]).all()
