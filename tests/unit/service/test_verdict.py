from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import fisher_exact

from classifier_training.evaluation.comparison import fisher, mcnemar
from classifier_training.service.verdict import (
    KEEP_ON,
    PROMOTE,
    ROLL_BACK,
    Answers,
    Rules,
    check_guardrails,
    combine,
    judge_arms,
    judge_pairs,
)

RULES = Rules()


def pairs(gained: int, lost: int, same: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Whether the new and the present run are correct; images that both have right are the rest."""
    order = np.random.default_rng(seed).permutation(gained + lost + same)
    new = np.array([True] * gained + [False] * lost + [True] * same, dtype=bool)[order]
    present = np.array([False] * gained + [True] * lost + [True] * same, dtype=bool)[order]
    return new, present


def answers(
    number: int, *, rejected: float = 0.1, seconds: float = 0.01, failed: float = 0.0, seed: int = 0
) -> Answers:
    random = np.random.default_rng(seed)
    return Answers(
        random.beta(9, 1, number),
        random.random(number) < rejected,
        random.random(number) < failed,
        random.lognormal(math.log(seconds), 0.3, number),
    )


def test_fishers_test_is_scipys_one_sided_one_twice() -> None:
    for table in ((80, 100, 850, 1000), (95, 100, 850, 1000), (3, 3, 0, 5), (0, 4, 0, 9)):
        hits, trials, others, other_trials = table
        cells = [[hits, trials - hits], [others, other_trials - others]]
        sides = [fisher_exact(cells, alternative=side).pvalue for side in ("less", "greater")]
        assert fisher(*table) == pytest.approx(min(1.0, 2 * min(sides)))
    assert fisher(0, 0, 5, 10) == 1.0


def test_no_verdict_before_the_first_look_and_it_says_how_many_labels_are_missing() -> None:
    found = judge_pairs(*pairs(60, 0, 39), RULES)
    assert (found.state, found.num_labelled, found.needed) == (KEEP_ON, 0, 1)
    assert judge_pairs(*pairs(0, 0, 0), RULES).needed == 100
    assert judge_arms(np.ones(3, bool), np.ones(3, bool), RULES).needed == 97


def test_the_error_of_all_looks_is_half_of_alpha() -> None:
    spent = [error for _, error in RULES.looks(100 << 39)]
    assert sum(spent) == pytest.approx(0.025 * (1 - 1 / 41))
    assert [size for size, _ in RULES.looks(450)] == [100, 200, 400]


def test_a_better_run_is_promoted_and_a_worse_one_rolled_back_by_mcnemars_test() -> None:
    better = judge_pairs(*pairs(25, 3, 72), RULES)
    assert (better.state, better.num_labelled, better.needed) == (PROMOTE, 100, 0)
    assert better.p_value == pytest.approx(mcnemar(25, 3))
    assert better.p_value <= better.spent == pytest.approx(0.0125)
    assert better.new.value - better.present.value == pytest.approx(0.22)
    assert judge_pairs(*pairs(3, 25, 72), RULES).state == ROLL_BACK


def test_looking_again_does_not_change_a_verdict() -> None:
    new, present = pairs(25, 3, 72)
    # What comes after the look that decided may say the opposite.
    later = np.concatenate([new, np.zeros(5000, bool)]), np.concatenate([present, np.ones(5000, bool)])
    assert judge_pairs(*later, RULES) == judge_pairs(new, present, RULES)
    # Between two looks nothing is tested, whatever the images are.
    between = np.concatenate([new[:90], np.ones(109, bool)]), np.concatenate([present[:90], np.zeros(109, bool)])
    first = judge_pairs(between[0][:100], between[1][:100], RULES)
    assert judge_pairs(*between, RULES).num_labelled == first.num_labelled == 100


def test_it_forecasts_the_labels_that_decide_and_says_when_no_number_would() -> None:
    new, present = pairs(8, 2, 90)
    found = judge_pairs(new, present, RULES)
    assert found.state == KEEP_ON
    assert found.needed is not None
    times = (found.needed + 100) // 100
    assert judge_pairs(np.tile(new, times), np.tile(present, times), RULES).state == PROMOTE
    assert judge_pairs(np.tile(new, times // 2), np.tile(present, times // 2), RULES).state == KEEP_ON
    assert judge_pairs(*pairs(5, 5, 90), RULES).needed is None


def test_with_a_margin_an_equal_run_is_promoted_and_one_that_loses_more_is_not() -> None:
    equal = pairs(60, 60, 6280)
    assert judge_pairs(*equal, RULES).state == KEEP_ON
    assert judge_pairs(*equal, Rules(margin=0.02)).state == PROMOTE
    assert judge_pairs(*pairs(0, 128, 6272), Rules(margin=0.02)).state == ROLL_BACK
    random = np.random.default_rng(0)
    is_new = random.random(64_000) < 0.1
    correct = random.random(64_000) < 0.9
    assert judge_arms(is_new, correct, RULES).state == KEEP_ON
    assert judge_arms(is_new, correct, Rules(margin=0.03)).state == PROMOTE


def test_arms_with_images_of_their_own_are_judged_by_fishers_test() -> None:
    random = np.random.default_rng(1)
    is_new = random.random(5000) < 0.1
    worse = judge_arms(is_new, random.random(5000) < np.where(is_new, 0.7, 0.9), RULES)
    assert (worse.state, worse.num_labelled) == (ROLL_BACK, 100)
    assert worse.present.value == pytest.approx(0.9, abs=0.05)
    better = judge_arms(is_new, random.random(5000) < np.where(is_new, 0.95, 0.7), RULES)
    assert better.state == PROMOTE
    # Labels of the new run alone compare nothing.
    assert judge_arms(np.ones(500, bool), np.ones(500, bool), RULES).state == KEEP_ON


@pytest.mark.parametrize("kind", ["pairs", "arms"])
def test_of_equal_runs_hardly_one_gets_a_verdict_and_of_worse_ones_none_is_promoted(kind: str) -> None:
    wrong, promoted = 0, 0
    for run in range(200):
        random = np.random.default_rng([2, run])
        for difference in (0.0, -0.05):
            if kind == "pairs":
                present = random.random(1600) < 0.9
                changed = random.random(1600) < 0.2
                new = np.where(changed, random.random(1600) < 0.9 + difference / 0.2, present)
                found = judge_pairs(new, present, RULES)
            else:
                is_new = random.random(8000) < 0.2
                found = judge_arms(is_new, random.random(8000) < np.where(is_new, 0.9 + difference, 0.9), RULES)
            wrong += difference == 0.0 and found.state != KEEP_ON
            promoted += difference < 0 and found.state == PROMOTE
    # The chance of more than 12 of 200 at alpha / 2 = 0.025 is 0.002.
    assert wrong <= 12
    assert promoted <= 2


def test_a_broken_guardrail_rolls_back_however_accurate_the_run_is() -> None:
    present = answers(8000, seed=1)
    ends = np.arange(1, 801) * 10
    state, number, rails = check_guardrails(answers(800, rejected=0.5), present, ends, RULES)
    assert (state, number) == (ROLL_BACK, 100)
    assert {rail.name: rail.state for rail in rails}["rejected"] == "broken"
    for broken, new in (
        ("failed", answers(800, failed=0.2)),
        ("latency", answers(800, seconds=0.05)),
        ("confidence", Answers(np.full(800, 0.4), np.zeros(800, bool), np.zeros(800, bool), present.seconds[:800])),
    ):
        state, _, rails = check_guardrails(new, present, ends, RULES)
        assert state == ROLL_BACK, broken
        assert [rail.name for rail in rails if rail.state == "broken"] == [broken]
    better = judge_pairs(*pairs(25, 3, 72), RULES)
    found = combine(better, (state, number, rails), RULES, kind="canary", num_requests=800, num_present=8000)
    assert found.state == ROLL_BACK
    assert "a guardrail is broken: mean confidence 0.4000" in found.words


def test_a_shadows_guardrails_are_paired_and_leave_the_latency_out() -> None:
    present = answers(400, rejected=0.5)
    slow = Answers(present.confidence, present.rejected, present.failed, present.seconds * 100)
    state, _, rails = check_guardrails(slow, present, None, RULES)
    assert state == KEEP_ON
    assert [rail.name for rail in rails] == ["rejected", "failed", "confidence"]
    # The same images are rejected by both, so the share need not be estimated twice.
    assert rails[0].state == "kept" or check_guardrails(slow, present, None, Rules(max_rejected=0.04))[0] != ROLL_BACK


def test_without_labels_only_kept_guardrails_promote_and_only_where_that_is_asked_for() -> None:
    new, present = answers(12_800, seed=3), answers(128_000, seed=4)
    rails = check_guardrails(new, present, np.arange(1, 12_801) * 10, RULES)
    assert rails[0] == PROMOTE
    nothing = judge_arms(np.zeros(0, bool), np.zeros(0, bool), RULES)
    shared = {"num_requests": 12_800, "num_present": 128_000}
    kept = combine(nothing, rails, RULES, kind="canary", **shared)  # type: ignore[arg-type]
    assert kept.state == KEEP_ON
    assert "100 more labelled images until the first look" in kept.words
    rules = Rules(needs_truth=False)
    assert combine(nothing, rails, rules, kind="canary", **shared).state == PROMOTE  # type: ignore[arg-type]
