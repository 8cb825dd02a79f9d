from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from classifier_training.core.errors import UserError
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.intervals import Estimate, exact_shares, images_to_decide
from classifier_training.evaluation.measures import Measures, measure
from classifier_training.evaluation.verdict import Targets, judge

NAMES = ("a", "b", "c")


def scored(*rows: tuple[int, int, int], intervals: bool = True) -> Measures:
    """Measure predictions: rows of a confusion matrix of three classes."""
    pairs = [(true, found) for true, row in enumerate(rows) for found, count in enumerate(row) for _ in range(count)]
    targets, answers = np.array(pairs).T
    return measure(np.eye(3, dtype=np.float32)[answers] * 4, targets, num_classes=3, intervals=intervals)


GOOD = ((100, 0, 0), (0, 99, 1), (0, 0, 100))


def test_a_model_is_ready_when_every_interval_lies_above_the_target() -> None:
    found = judge(scored(*GOOD), NAMES, Targets(), split="test")
    assert (found.status, {check.standing for check in found.checks}) == ("ready", {"reached"})
    assert str(found) == "verdict: ready: all 3 classes reach the default target recall of 90 %"
    assert judge(scored(*GOOD, intervals=False), NAMES, Targets(), split="test").status == "ready"
    assert found.to_dict()["is_default_target"]


def test_a_model_is_not_ready_by_images_that_it_was_trained_on() -> None:
    found = judge(scored(*GOOD), NAMES, Targets(), split="all", num_trained_on=3)
    assert found.status_words == "too few test images"
    assert found.words == "3 images of these were trained on, so they are no test images"


def test_one_class_below_its_target_is_enough_to_be_not_ready() -> None:
    measures = scored((100, 0, 0), (10, 80, 10), (0, 0, 4))
    found = judge(measures, NAMES, Targets(), split="test")
    assert found.status == "not ready"
    assert found.words == "1 of 3 classes does not reach the default target recall of 90 %: b 80.0 %"
    assert [check.label for check in found.standing("open")] == [2]
    assert judge(measures, NAMES, Targets(recall={"b": 0.7}), split="test").status == "ready"
    mixed = judge(measures, NAMES, Targets(recall={"b": 0.95, "*": 0.3}), split="test")
    assert mixed.words == "1 of 3 classes does not reach their target recall: b 80.0 % (target 95 %)"


def test_a_class_between_is_decided_by_more_images_and_says_how_many() -> None:
    found = judge(scored((100, 0, 0), (0, 20, 0), (0, 0, 100)), NAMES, Targets(), split="test")
    assert found.status == "too few test images"
    (check,) = found.standing("open")
    assert (check.label, check.more_images) == (1, 16)
    assert found.words.endswith("b 100.0 % (needs about 16 more test images)")


def test_a_class_without_test_images_leaves_the_verdict_open() -> None:
    found = judge(scored((100, 0, 0), (0, 100, 0), (0, 0, 0)), NAMES, Targets(), split="test")
    assert found.status == "too few test images"
    (check,) = found.standing("open")
    assert (check.label, check.num_images, check.more_images) == (2, 0, 36)
    assert check.to_dict(NAMES)["value"] is None


@pytest.mark.parametrize(("target", "standing"), [(0.78, "reached"), (0.9, "open"), (0.96, "missed")])
def test_the_accuracy_is_judged_by_its_interval(target: float, standing: str) -> None:
    measures = scored((90, 5, 5), (5, 90, 5), (5, 5, 90))
    found = judge(measures, NAMES, Targets(accuracy=target), split="test")
    assert found.checks[-1 if standing != "reached" else 0].metric in ("accuracy", "baseline")
    (check,) = [item for item in found.checks if item.metric == "accuracy"]
    assert check.standing == standing
    low, high = check.estimate.low, check.estimate.high
    for edge, expected in ((low, "reached"), (high, "open")):
        (at_edge,) = [
            item
            for item in judge(measures, NAMES, Targets(accuracy=edge), split="test").checks
            if item.metric == "accuracy"
        ]
        assert at_edge.standing == expected


def test_precision_and_balanced_accuracy_have_targets_too() -> None:
    measures = scored((60, 40, 0), (0, 100, 0), (0, 0, 100))
    found = judge(measures, NAMES, Targets(precision=0.8, balanced_accuracy=0.7), split="test")
    assert [(item.metric, item.label) for item in found.standing("missed")] == [("precision", 1)]
    assert found.words == "1 of 4 targets does not reach their targets: precision of b 71.4 % (target 80 %)"


def test_a_perfect_balanced_accuracy_has_an_interval_all_the_same() -> None:
    measures = scored((20, 0, 0), (0, 20, 0), (0, 0, 20))
    assert np.isnan(measures.overall["balanced_accuracy"].low)
    for target, status in ((0.9, "ready"), (0.97, "too few test images")):
        assert judge(measures, NAMES, Targets(balanced_accuracy=target), split="test").status == status


def test_a_model_that_predicts_one_class_is_not_better_than_the_baseline() -> None:
    measures = scored((90, 0, 0), (5, 0, 0), (5, 0, 0))
    found = judge(measures, NAMES, Targets(accuracy=0.5), split="test", train_counts=[900, 50, 50])
    assert (found.status, found.words) == ("not ready", "no better than always predicting a")
    assert found.baseline.accuracy == 0.9
    assert found.baseline.balanced_accuracy == pytest.approx(1 / 3)
    # One image of a hundred more than the baseline is not enough to tell.
    (close,) = judge(
        scored((89, 1, 0), (3, 2, 0), (5, 0, 0)), NAMES, Targets(recall={"a": 0.5}), split="test"
    ).standing("open")
    assert close.metric == "baseline"
    assert close.more_images
    # A class that is frequent in training and rare here is the baseline nevertheless.
    assert judge(measures, NAMES, Targets(), split="test", train_counts=[1, 2, 0]).baseline.accuracy == 0.05


def test_less_accuracy_for_more_balance_is_better_than_the_baseline() -> None:
    measures = scored((850, 50, 50), (2, 23, 0), (2, 0, 23))
    found = judge(measures, NAMES, Targets(balanced_accuracy=0.8), split="test")
    assert measures.overall["acc_top1"].value < found.baseline.accuracy
    assert found.status == "ready"


def test_images_of_one_class_have_no_baseline() -> None:
    found = judge(scored((100, 0, 0), (0, 0, 0), (0, 0, 0)), NAMES, Targets(recall={"a": 0.9}), split="test")
    assert (found.status, [check.metric for check in found.checks]) == ("ready", ["recall"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_training_saw_never_make_a_model_ready(split: str) -> None:
    assert judge(scored(*GOOD), NAMES, Targets(), split=split).status == "too few test images"


@pytest.mark.parametrize(("split", "images"), [("val", "validation"), ("train", "training"), ("", "test")])
def test_images_that_are_too_few_are_named_by_their_split(split: str, images: str) -> None:
    found = judge(scored((100, 0, 0), (0, 20, 0), (0, 0, 100)), NAMES, Targets(), split=split)
    assert str(found).startswith(f"verdict: too few {images} images: ")
    assert str(found).endswith(f"b 100.0 % (needs about 16 more {images} images)")
    assert found.to_dict()["status"] == "too few test images"


@pytest.mark.parametrize(("hits", "trials", "target"), [(10, 10, 0.9), (19, 20, 0.9), (8, 10, 0.9), (97, 100, 0.95)])
def test_the_number_of_images_is_the_smallest_that_decides(hits: int, trials: int, target: float) -> None:
    (found,) = exact_shares(np.array([hits]), np.array([trials]))
    number = images_to_decide(found, trials, target)
    assert number is not None

    def decides(images: int) -> bool:
        (exact,) = exact_shares(np.array([images * hits / trials]), np.array([images]))
        return not exact.low < target <= exact.high

    assert decides(number)
    assert not decides(number - 1)
    if number * hits % trials == 0:
        reference = binomtest(number * hits // trials, number).proportion_ci(method="exact")
        assert reference.low >= target or reference.high < target


def test_no_number_of_images_decides_what_lies_on_the_target() -> None:
    assert images_to_decide(exact_shares(np.array([9]), np.array([10]))[0], 10, 0.9) is None
    assert images_to_decide(exact_shares(np.array([9001]), np.array([10000]))[0], 10000, 0.9) is None


def test_an_interval_of_another_kind_shrinks_with_the_root_of_the_images() -> None:
    # 0.05 above the target, with an interval that reaches 0.1 down: four times as many images.
    assert images_to_decide(Estimate(0.95, 0.85, 0.99, "bootstrap"), 50, 0.9) == pytest.approx(200, abs=1)


def test_targets_name_classes_of_the_model() -> None:
    Targets(recall={"a": 0.9, "*": 0.5}).check_names(NAMES)
    with pytest.raises(UserError, match="no class of that name") as caught:
        Targets(recall={"cat": 0.9}).check_names(("cats", "dogs"))
    assert caught.value.remedy == "target.recall='{cats: 0.9}'"
    assert Targets.of({"target": {"type": "default", "recall": 0.8}}) == Targets(recall=0.8)
    assert Targets.of({}) == Targets()


def test_images_of_few_groups_tell_less() -> None:
    targets = np.repeat([0, 1, 2], 60)
    scores = np.eye(3, dtype=np.float32)[targets] * 4
    scores[55:60] = (0, 4, 0)
    groups = Groups.of([f"session {row // 20}" for row in range(180)])
    single = measure(scores, targets, num_classes=3)
    grouped = measure(scores, targets, num_classes=3, groups=groups)
    assert [judge(found, NAMES, Targets(accuracy=0.9), split="test").status for found in (single, grouped)] == [
        "ready", "too few test images",
    ]  # fmt: skip
