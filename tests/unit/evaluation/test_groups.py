"""Intervals and tests by groups: against enumeration, and by how often they are right."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from classifier_training.evaluation.comparison import compare, mcnemar
from classifier_training.evaluation.groups import Groups, effective_trials, resample_groups, sign_flip_test
from classifier_training.evaluation.intervals import exact_shares, grouped_shares
from classifier_training.evaluation.measures import measure
from classifier_training.evaluation.slices import slice_metrics

Drawn = tuple[np.ndarray, np.ndarray, Groups]


def drawn(random: np.random.Generator, num_groups: int, size: int, *, classes: int = 3) -> Drawn:
    """Logits of images whose groups are easy or hard as a whole."""
    groups = Groups(np.repeat(np.arange(num_groups), size))
    targets = random.integers(0, classes, len(groups.numbers))
    logits = random.normal(size=(len(targets), classes))
    logits[np.arange(len(targets)), targets] += 1.2 + random.normal(size=num_groups)[groups.numbers]
    return logits, targets, groups


def test_images_without_a_name_are_groups_of_their_own_and_a_few_copies_do_not_count() -> None:
    found = Groups.of(["a", "", "a", "b", "", "b", "b"])
    assert found is not None
    assert len(found) == 4
    assert sorted(found.sizes.tolist()) == [1, 1, 2, 3]
    assert Groups.of([""] * 5) is None
    assert Groups.of([f"own {number}" for number in range(50)]) is None
    assert Groups.of(["copies", "copies", *[""] * 98]) is None
    assert str(found) == "by 4 groups, too few to rely on them"
    assert str(Groups(np.arange(37))) == "by 37 groups"


def test_the_effective_number_of_images_is_korn_and_graubards() -> None:
    random = np.random.default_rng(0)
    trials = random.integers(5, 40, 12).astype(float)
    hits = np.round(trials * random.uniform(0.5, 1, 12))
    number, share = trials.sum(), hits.sum() / trials.sum()
    variance = 12 / 11 * ((hits - share * trials) ** 2).sum() / number**2
    expected = share * (1 - share) / variance * (stats.t.ppf(0.975, number - 1) / stats.t.ppf(0.975, 11)) ** 2
    # Given in parts, and beside a second share of all images.
    parts = [
        (np.stack([hits[rows], trials[rows]], axis=1), np.stack([trials[rows], trials[rows]], axis=1))
        for rows in (slice(5), slice(5, 12))
    ]
    found = effective_trials(parts, 0.95)
    assert found.numbers == pytest.approx([expected, 12])
    assert expected < 0.6 * number
    (some, all_of_them) = grouped_shares(parts)
    (reference,) = exact_shares(np.array([share * expected]), np.array([expected]))
    assert (some.low, some.high) == pytest.approx((reference.low, reference.high))
    assert all_of_them.value == 1
    assert all_of_them.low == pytest.approx(0.025 ** (1 / 12))


def test_one_group_tells_nothing_of_others() -> None:
    (found,) = grouped_shares([(np.array([[18.0]]), np.array([[20.0]]))])
    assert (found.value, found.low, found.high) == (0.9, 0, 1)
    (nothing,) = grouped_shares([(np.array([[0.0]]), np.array([[0.0]]))])
    assert np.isnan(nothing.value)


def test_groups_of_one_image_give_the_intervals_of_independent_images() -> None:
    hits = np.random.default_rng(0).random((400, 1)) < 0.8
    (found,) = grouped_shares([(hits.astype(float), np.ones((400, 1)))])
    (reference,) = exact_shares(hits.sum(axis=0), np.array([400]))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-3)


def test_whole_groups_are_resampled() -> None:
    groups = Groups(np.array([0, 1, 1, 2, 2, 2, 0]))
    (whole,) = resample_groups(groups, 60, seed=0, max_values=10**6)
    for number in range(3):
        rows = whole[groups.numbers == number]
        assert (rows == rows[0]).all()
    assert set((whole[[0, 1, 3]].sum(axis=0)).tolist()) == {3}
    parts = list(resample_groups(groups, 60, seed=0, max_values=7 * 8))
    assert len(parts) == 8
    assert (np.concatenate(parts, axis=1) == whole).all()


@pytest.mark.parametrize("number", [1, 6, 11])
def test_the_sign_flip_test_counts_all_signs(number: int) -> None:
    changes = np.random.default_rng(number).integers(-4, 6, number).astype(float)
    sums = np.array([np.dot(signs, changes) for signs in product([1, -1], repeat=number)])
    assert sign_flip_test(changes) == pytest.approx((np.abs(sums) >= abs(changes.sum())).mean())


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (9, 1), (40, 22), (1900, 1700)])
def test_groups_of_one_image_give_mcnemars_test(gained: int, lost: int) -> None:
    assert sign_flip_test(np.repeat([1.0, -1, 0], [gained, lost, 7])) == pytest.approx(mcnemar(gained, lost))


def test_intervals_by_groups_hold_where_those_of_images_do_not() -> None:
    """The truth is that of 20,000 groups; each interval comes from 25 others of 20 images."""
    random = np.random.default_rng(5)
    logits, targets, _ = drawn(random, 20_000, 10)
    truth = measure(logits, targets, num_classes=3, intervals=False)
    names = ("acc_top1", "balanced_accuracy", "macro_f1", "loss", "brier", "macro_auroc", "macro_average_precision")
    rounds = 60
    covered = {how: dict.fromkeys((*names, "recall"), 0) for how in ("groups", "images")}
    for _ in range(rounds):
        logits, targets, groups = drawn(random, 25, 20)
        for how, given in (("groups", groups), ("images", None)):
            found = measure(logits, targets, num_classes=3, groups=given)
            pairs = {name: (found.overall[name], truth.overall[name].value) for name in names}
            pairs["recall"] = (found.by_class["recall"][0], truth.by_class["recall"][0].value)
            for name, (estimate, value) in pairs.items():
                covered[how][name] += estimate.low <= value <= estimate.high
    assert all(number >= 0.9 * rounds - 2 for number in covered["groups"].values()), covered
    overall = [number for name, number in covered["images"].items() if name != "recall"]
    assert max(overall) <= 0.75 * rounds, covered
    assert found.overall["acc_top1"].method == "exact (Clopper-Pearson)"
    by_groups = measure(logits, targets, num_classes=3, groups=groups)
    methods = {by_groups.overall[name].method for name in names}
    assert methods == {"exact by groups (Korn-Graubard)", "DeLong by groups", "bootstrap of groups"}


def test_a_class_missing_from_a_resample_leaves_the_others() -> None:
    random = np.random.default_rng(0)
    logits, targets, groups = drawn(random, 12, 10, classes=4)
    targets = np.where(groups.numbers == 3, 2, targets % 2)
    found = measure(logits, targets, num_classes=4, groups=groups)
    assert (found.by_class["recall"][2].low, found.by_class["recall"][2].high) == (0, 1)
    for name in ("balanced_accuracy", "macro_average_precision", "macro_f1"):
        estimate = found.overall[name]
        assert estimate.low < estimate.value < estimate.high


def test_equal_classifiers_are_rarely_told_apart_by_groups_and_often_by_images() -> None:
    random = np.random.default_rng(1)
    alarms = {"groups": 0, "images": 0}
    for _ in range(80):
        groups = Groups(np.repeat(np.arange(20), 25))
        targets = random.integers(0, 3, 500)
        # In each group one of the two, by chance, is better.
        lean = random.choice([0.35, 0.65], 20)[groups.numbers]
        first = random.random(500) < lean
        changed = random.random(500) < 0.3
        own, other = np.where(changed, first, True), np.where(changed, ~first, True)
        for how, given in (("groups", groups), ("images", None)):
            found = compare(targets, own, other, ("a", "b", "c"), given)
            alarms[how] += min(found.adjusted) < 0.05
    assert alarms["groups"] <= 0.1 * 80
    assert alarms["images"] >= 0.15 * 80


def test_a_comparison_by_groups_says_so() -> None:
    random = np.random.default_rng(1)
    groups = Groups(np.repeat(np.arange(30), 10))
    targets = random.integers(0, 2, 300)
    own, other = random.random(300) < 0.9, random.random(300) < 0.6
    found = compare(targets, own, other, ("a", "b"), groups)
    assert "(sign flips of 30 groups, p = " in found.verdict("x", "y")
    assert found.verdict("x", "y").startswith("x is better than y")
    written = found.to_dict()
    assert written["mcnemar"] is None
    assert written["sign_flips"]["groups"] == 30
    assert found.balanced_accuracy_difference.method == "paired bootstrap of groups"


def test_two_tests_of_equal_classifiers_raise_one_alarm_in_twenty() -> None:
    """With unequal classes, accuracy and balanced accuracy are two questions; unadjusted, one in ten would alarm."""
    random = np.random.default_rng(11)
    targets = np.repeat(np.arange(5), (300, 100, 50, 25, 12))
    alarms = 0
    for _ in range(150):
        first, changed = random.random(len(targets)) < 0.5, random.random(len(targets)) < 0.1
        found = compare(targets, np.where(changed, first, True), np.where(changed, ~first, True), list("abcde"))
        alarms += min(found.adjusted) < 0.05
    assert alarms <= 0.08 * 150


def test_slices_have_intervals_by_groups_but_not_those_that_are_groups() -> None:
    random = np.random.default_rng(0)
    logits, targets, groups = drawn(random, 24, 20)
    predicted = logits.argmax(axis=1)
    halves = ["left" if number < 12 else "right" for number in groups.numbers]
    for how, width in ((None, 0.14), (groups, 0.2)):
        for item in slice_metrics("side", halves, targets, predicted, num_classes=3, groups=how):
            estimates = (item.accuracy, item.balanced_accuracy)
            assert all((one.high - one.low > width) == (how is not None) for one in estimates)
    own = slice_metrics("group", [str(n) for n in groups.numbers], targets, predicted, num_classes=3, groups=groups)
    assert {item.accuracy.method for item in own} == {"exact (Clopper-Pearson)"}
