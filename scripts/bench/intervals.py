"""How often 95 % intervals hold the truth, by groups and by images, and how often equal classifiers are told apart.

All data are drawn. Groups are easy or hard as a whole: their margins differ by a standard deviation of 1. The truth is
that of 20,000 groups. Two classifiers are equal where a changed image is as likely gained as lost.

python scripts/bench/intervals.py [--rounds 150]
"""

from __future__ import annotations

import argparse

import numpy as np

from classifier_training.evaluation.comparison import SIGNIFICANCE, compare
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.measures import measure

NAMES = ("acc_top1", "balanced_accuracy", "macro_f1", "matthews", "loss", "brier", "macro_auroc")
CASES = ((40, 15), (20, 30), (8, 30))
SUPPORTS = ((250, 250), (450, 50), (300, 100, 50, 25, 12))
Drawn = tuple[np.ndarray, np.ndarray, Groups]


def draw(random: np.random.Generator, num_groups: int, size: int) -> Drawn:
    """Logits [N, 3], targets [N] and groups."""
    groups = Groups(np.repeat(np.arange(num_groups), size))
    targets = random.integers(0, 3, len(groups.numbers))
    logits = random.normal(size=(len(targets), 3))
    logits[np.arange(len(targets)), targets] += 1.2 + random.normal(size=num_groups)[groups.numbers]
    return logits, targets, groups


def cover(num_groups: int, size: int, rounds: int) -> None:
    """Print the shares of intervals that hold the truth, the lowest and the highest of the metrics."""
    random = np.random.default_rng(1)
    logits, targets, _ = draw(random, 20_000, 10)
    truth = measure(logits, targets, num_classes=3, intervals=False).overall
    held = {how: dict.fromkeys(NAMES, 0) for how in ("groups", "images")}
    for _ in range(rounds):
        logits, targets, groups = draw(random, num_groups, size)
        for how, given in (("groups", groups), ("images", None)):
            found = measure(logits, targets, num_classes=3, groups=given).overall
            for name in NAMES:
                held[how][name] += found[name].low <= truth[name].value <= found[name].high
    for how, counts in held.items():
        shares = [count / rounds for count in counts.values()]
        print(f"{num_groups} groups of {size} images, by {how}: {min(shares):.2f} to {max(shares):.2f} (n {rounds})")


def tell_apart(support: tuple[int, ...], rounds: int) -> None:
    """Print how often two equal classifiers are told apart."""
    random = np.random.default_rng(0)
    targets = np.repeat(np.arange(len(support)), support)
    adjusted = either = 0
    for _ in range(rounds):
        first, changed = random.random(len(targets)) < 0.5, random.random(len(targets)) < 0.1
        own, other = first | ~changed, ~first | ~changed
        found = compare(targets, own, other, [str(number) for number in range(len(support))])
        difference = found.balanced_accuracy_difference
        adjusted += min(found.adjusted) < SIGNIFICANCE
        either += found.p_value < SIGNIFICANCE or difference.low > 0 or difference.high < 0
    print(f"images by class {support}: told apart {either / rounds:.3f}, adjusted {adjusted / rounds:.3f} (n {rounds})")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    options = parser.parse_args()
    for case in CASES:
        cover(*case, options.rounds)
    for support in SUPPORTS:
        tell_apart(support, 10 * options.rounds)


if __name__ == "__main__":
    main()
