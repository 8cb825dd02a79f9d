"""Compare ways to choose the images to label next: 100 labels, then rounds of 50, a head fitted anew after each.

Features of the pretrained network are computed once and kept in WORK. For each seed, 100 training images are drawn as
the labelled ones; the others are the pool. Every way chooses from the same start, and is scored on the test images.
Each result is appended to WORK/active_choice.jsonl; what is there already is not computed again. Printed are the
balanced accuracies after each round, and the difference to random choice, paired by seed, with its standard error.

    python scripts/bench/active_choice.py --data FOLDER [FOLDER ...] --work WORK --seeds 5

FOLDER holds train, val and test, each with a folder for every class.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from learning_curve import features_of

from classifier_training.core.types import TEST, TRAIN, VAL, softmax
from classifier_training.evaluation.influence import fit_head
from classifier_training.evaluation.selection import STRATEGIES, choose_next

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.evaluation.selection import Strategy

Split = tuple["NDArray[np.float32]", "NDArray[np.int64]"]

NUM_START, NUM_VAL, ROUND, NUM_ROUNDS = 100, 50, 50, 3


def rounds(train: Split, val: Split, test: Split, strategy: Strategy, seed: int) -> list[float]:
    """Balanced accuracy on the test images with the first labels, and after each round."""
    values, targets = train
    num_classes = int(targets.max()) + 1
    generator = np.random.default_rng(seed)
    labelled = generator.permutation(len(targets))[:NUM_START]
    # Whoever has 100 labels has not many more to choose a penalty by.
    chosen_val = generator.permutation(len(val[1]))[:NUM_VAL]
    scores = []
    for step in range(NUM_ROUNDS + 1):
        head = fit_head(
            values[labelled], targets[labelled], val[0][chosen_val], val[1][chosen_val], num_classes=num_classes
        )
        hits = head.logits(test[0]).argmax(axis=1) == test[1]
        scores.append(float(np.mean([hits[test[1] == number].mean() for number in range(num_classes)])))
        if step < NUM_ROUNDS:
            pool = np.setdiff1d(np.arange(len(targets)), labelled)
            shares = softmax(head.logits(values[pool]))
            new = choose_next(shares, values[pool], values[labelled], ROUND, strategy=strategy, seed=seed)
            labelled = np.concatenate([labelled, pool[new.rows]])
    return scores


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    kept = args.work / "active_choice.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    known = {(row["data"], row["strategy"], row["seed"]): row["scores"] for row in rows}
    for data in args.data:
        _, features = features_of(data, args.work, ["model=tf_efficientnet_lite0"])
        parts = {name: (part.values.numpy(), part.targets.numpy()) for name, part in features.items()}
        for seed in range(args.seeds):
            for strategy in STRATEGIES:
                if (data.name, strategy, seed) in known:
                    continue
                scores = rounds(parts[TRAIN], parts[VAL], parts[TEST], strategy, seed)
                known[data.name, strategy, seed] = scores
                with kept.open("a") as file:
                    file.write(
                        json.dumps({"data": data.name, "strategy": strategy, "seed": seed, "scores": scores}) + "\n"
                    )
        show(data.name, known, args.seeds, {name: len(part[1]) for name, part in parts.items()})


def show(name: str, known: dict[tuple[str, str, int], list[float]], num_seeds: int, sizes: dict[str, int]) -> None:
    """Print the table of a data set."""
    found = {strategy: np.array([known[name, strategy, seed] for seed in range(num_seeds)]) for strategy in STRATEGIES}
    print(f"\n{name}: pool of {sizes[TRAIN]:,}, {sizes[TEST]:,} test images, {num_seeds} seeds")
    print(f"{'':16} {'  '.join(f'{NUM_START + ROUND * step:>5}' for step in range(NUM_ROUNDS + 1))}   mean - random")
    for strategy, scores in found.items():
        gains = scores[:, 1:].mean(axis=1) - found["random"][:, 1:].mean(axis=1)
        error = gains.std(ddof=1) / np.sqrt(num_seeds)
        means = "  ".join(f"{score:.3f}" for score in scores.mean(axis=0))
        print(f"{strategy:16} {means}   {gains.mean():+.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
