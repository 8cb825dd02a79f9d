"""Simulate roll-outs and count wrong verdicts: python scripts/bench/rollout.py [--rollouts 400] [--images 12800]

Each roll-out is judged at every look by the functions that `registry verdict` calls. The models answer alike except for
a share of the images, of which the new one has its share right; a canary has a tenth of the requests. The last columns
are the median of the images until a verdict, of the roll-outs that have one: labelled ones of the new run.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.service.verdict import (
    KEEP_ON,
    PROMOTE,
    ROLL_BACK,
    Accuracy,
    Answers,
    Rules,
    check_guardrails,
    judge_arms,
    judge_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Judge = Callable[[np.random.Generator, int, float, Rules], Accuracy]

ACCURACY, CHANGED, SHARE = 0.9, 0.1, 0.1
DIFFERENCES = (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05)


def shadow(random: np.random.Generator, number: int, difference: float, rules: Rules) -> Accuracy:
    """A shadow whose predictions are correct and wrong with the present run's, but for a share of the images."""
    kind = random.choice(
        4, number, p=[(CHANGED + difference) / 2, (CHANGED - difference) / 2,
                      ACCURACY - (CHANGED - difference) / 2, 1 - ACCURACY - (CHANGED + difference) / 2]
    )  # fmt: skip
    return judge_pairs(np.isin(kind, [0, 2]), np.isin(kind, [1, 2]), rules)


def canary(random: np.random.Generator, number: int, difference: float, rules: Rules) -> Accuracy:
    """A canary of a tenth of ten times as many requests."""
    is_new = random.random(round(number / SHARE)) < SHARE
    correct = random.random(len(is_new)) < np.where(is_new, ACCURACY + difference, ACCURACY)
    return judge_arms(is_new, correct, rules)


def guardrails(random: np.random.Generator, number: int, rules: Rules) -> bool:
    """Whether a canary is rolled back whose rejections rise by just as much as is accepted."""
    total = round(number / SHARE)
    is_new = random.random(total) < SHARE
    rejected = random.random(total) < np.where(is_new, 0.1 + rules.max_rejected, 0.1)
    confidence, seconds = random.beta(9, 1, total), random.lognormal(-4, 0.5, total)
    failed = np.zeros(total, bool)
    new, present = (
        Answers(confidence[part], rejected[part], failed[part], seconds[part]) for part in (is_new, ~is_new)
    )
    ends = np.cumsum(~is_new, dtype=np.int64)[is_new]
    return check_guardrails(new, present, ends, rules)[0] == ROLL_BACK


def row(judge: Judge, rollouts: int, number: int, difference: float, rules: Rules, *, seed: int) -> str:
    """Simulate one kind of roll-out."""
    found = [judge(np.random.default_rng([seed, run]), number, difference, rules) for run in range(rollouts)]
    shares = [sum(one.state == state for one in found) / rollouts for state in (PROMOTE, ROLL_BACK, KEEP_ON)]
    decided = [one.num_labelled for one in found if one.state != KEEP_ON]
    median = f"{statistics.median(decided):,.0f}" if decided else "-"
    cells = (f"{difference * 100:+.0f}", f"{rules.margin * 100:.0f}", *(f"{share:.1%}" for share in shares), median)
    return f"| {judge.__name__} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=400)
    parser.add_argument("--images", type=int, default=12_800, help="labelled images of the new run, at most")
    args = parser.parse_args()
    print(f"{args.rollouts} roll-outs a row, each of at most {args.images:,} labelled images of the new run")
    print("| roll-out | difference, points | margin | promoted | rolled back | no verdict | images |")
    print("|---|---|---|---|---|---|---|")
    for judge in (shadow, canary):
        for difference in DIFFERENCES:
            print(row(judge, args.rollouts, args.images, difference, Rules(), seed=1))
        for difference in (-0.02, 0.0):
            print(row(judge, args.rollouts, args.images, difference, Rules(margin=0.02), seed=2))
    broken = sum(guardrails(np.random.default_rng([3, run]), args.images, Rules()) for run in range(args.rollouts))
    print(f"rolled back at the limit of a guardrail: {broken} of {args.rollouts}")


if __name__ == "__main__":
    main()
