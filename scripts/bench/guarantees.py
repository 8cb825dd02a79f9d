"""Whether label sets and guaranteed thresholds hold on real predictions.

Each run's test images are divided 1,000 times into two halves: the temperature and the threshold of label sets come
from the one, the coverage is counted on the other. For the precision of accepted predictions the test images are the
population: as many images as validation has are drawn from them with replacement, 1,000 times, and the thresholds that
follow are judged on the population. Last, what the validation images, which also chose the weights, give on the test.

python scripts/bench/guarantees.py RUN [RUN …] [--resplits 1000]
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import softmax
from classifier_training.evaluation.calibration import fit_temperature
from classifier_training.evaluation.guarantees import DELTA
from classifier_training.evaluation.intervals import exact_shares
from classifier_training.evaluation.label_sets import TrueScores, label_sets
from classifier_training.evaluation.reject import class_curves, class_thresholds, guaranteed_thresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

COVERAGES = (0.9, 0.95)
PRECISIONS = (0.8, 0.9, 0.95)


def read(run: RunDir) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """Return the probabilities [N, K] of the test images as logits, the targets [N] and the class names [K]."""
    with run.predictions.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    first = next(place for place, name in enumerate(header) if name.startswith("prob_"))
    names = [name.removeprefix("prob_") for name in header[first:]]
    shares = np.array([row[first:] for row in rows], dtype=np.float64)
    targets = np.array([names.index(row[header.index("true")]) for row in rows])
    return np.log(np.clip(shares, 1e-6, 1)).astype(np.float32), targets, names


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def resplit(logits: NDArray[np.float32], targets: NDArray[np.int64], number: int) -> None:
    """Print the coverage of label sets over resplits."""
    random = np.random.default_rng(0)
    half = len(targets) // 2
    found: dict[tuple[float, str], list[float]] = {}
    sizes: dict[tuple[float, str], list[float]] = {}
    for _ in range(number):
        order = random.permutation(len(targets))
        fitted, held_out = order[:half], order[half:]
        shares = softmax(logits / np.float32(fit_temperature(logits[fitted], targets[fitted])))
        scores = TrueScores.of(shares[fitted], targets[fitted])
        for coverage in COVERAGES:
            for kind, thresholds in (
                ("marginal", scores.threshold(coverage)),
                ("by class", scores.class_thresholds(coverage, logits.shape[1])),
            ):
                sets = label_sets(shares[held_out], thresholds)
                hits = sets[np.arange(len(held_out)), targets[held_out]]
                found.setdefault((coverage, kind), []).append(float(hits.mean()))
                sizes.setdefault((coverage, kind), []).append(float(sets.sum(axis=1).mean()))
    for (coverage, kind), values in found.items():
        print(
            f"  label sets, coverage {coverage:g}, {kind}: {spread(values)} over {number:,} resplits "
            f"({half} and {len(targets) - half} images), {np.mean(sizes[coverage, kind]):.2f} labels"
        )


def redraw(logits: NDArray[np.float32], targets: NDArray[np.int64], names: list[str], size: int, number: int) -> None:
    """Print how often thresholds miss the precision in the population that they were drawn from."""
    random = np.random.default_rng(0)
    shares = softmax(logits)
    predicted, confidences, correct = shares.argmax(axis=1), shares.max(axis=1), shares.argmax(axis=1) == targets
    for precision in PRECISIONS:
        missed: dict[str, list[float]] = {"tested": [], "observed": []}
        covered: dict[str, list[float]] = {"tested": [], "observed": []}
        for _ in range(number):
            rows = random.integers(0, len(targets), size)
            curves = class_curves(shares[rows], targets[rows], names)
            guaranteed = guaranteed_thresholds(curves, precision=precision, delta=DELTA)
            for kind, needed in (
                ("tested", guaranteed.by_class),
                ("observed", class_thresholds(curves, precision=precision)),
            ):
                accepted = confidences >= np.array([needed[name] for name in names])[predicted]
                covered[kind].append(float(accepted.mean()))
                # Each threshold is for the classes that share it.
                parts = [[name] for name in names if name not in guaranteed.shared] + (
                    [guaranteed.shared] if guaranteed.shared else []
                )
                for part in parts:
                    own = accepted & np.isin(predicted, [names.index(name) for name in part])
                    missed[kind].append(float(own.any() and correct[own].mean() < precision))
        for kind, values in missed.items():
            print(
                f"  precision {precision:g}, {kind}: missed by {np.mean(values):.1%} of {len(values):,} thresholds "
                f"from {size} images, {np.mean(covered[kind]):.1%} accepted"
            )


def main() -> None:
    """Print all of it for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--resplits", type=int, default=1000)
    options = parser.parse_args()
    for path in options.runs:
        run = RunDir(path)
        logits, targets, names = read(run)
        size = json.loads(run.model_info.read_text())["calibration"]["num_images"]
        print(
            f"{path}: {len(targets):,} test images, {len(names)} classes, "
            f"accuracy {np.mean(logits.argmax(axis=1) == targets):.4f}"
        )
        resplit(logits, targets, options.resplits)
        redraw(logits, targets, names, size, options.resplits)
        for item in json.loads((run.evaluation / "calibration.json").read_text()).get("label_sets", []):
            hits = round(item["found_coverage"] * len(targets))
            (share,) = exact_shares(np.array([hits]), np.array([len(targets)]))
            print(
                f"  from {size} validation images, coverage {item['coverage']:g}: {share} on test, "
                f"{item['mean_size']:.2f} labels"
            )


if __name__ == "__main__":
    main()
