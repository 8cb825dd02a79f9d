"""Measure what an ensemble of folds gains over one fold on the test split, and whether its ONNX file is that ensemble.

Cross-validations are trained with several seeds, or finished ones are read with --runs. For each it prints the test
balanced accuracy of the ensemble, of the mean fold and their difference; then, on the test images, the largest
difference of a probability between model.onnx and the mean of the folds' calibrated probabilities, and the coverage of
label sets whose thresholds come from the out-of-fold predictions:

    python scripts/bench/folds.py --data /my/images --seeds 0 1 --settings data.image_size=96 trainer.max_epochs=3
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from classifier_training.cli import perform
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import TEST, softmax
from classifier_training.evaluation.label_sets import label_sets
from classifier_training.inference.ensemble import Ensemble
from classifier_training.inference.predictor import Predictor
from classifier_training.workflows.evaluating.samples import own_samples, tabulate
from classifier_training.workflows.evaluating.scores import score_table

METRIC = "balanced_accuracy"
COVERAGE = 0.9


def measure(run: RunDir) -> tuple[float, float]:
    """Print the figures of a cross-validation; returns the gain in points, and the largest difference."""
    found = json.loads(run.cross_validation.read_text())
    test = found["metrics"][TEST][METRIC]
    gain = 100 * (test["value"] - test["mean"])
    predictor = Predictor(run.path, accelerator="cpu")
    samples, root = own_samples(run)
    table = tabulate(samples, root, TEST, predictor.class_names)
    mean = Ensemble([Predictor(fold.path, accelerator="cpu") for fold in run.fold_runs], path=run.path)
    one, other = (softmax(score_table(each, table, skips=True).logits) for each in (predictor, mean))
    apart = float(np.abs(one - other).max())
    calibration = predictor.calibration
    covered = "no label sets"
    if calibration is not None and calibration.scores is not None:
        sets = label_sets(one, np.full(len(predictor.class_names), calibration.scores.threshold(COVERAGE)))
        hits = sets[np.arange(len(table)), table.targets].mean()
        covered = f"label sets for {COVERAGE:.0%}: {hits:.1%} covered, {sets.sum(axis=1).mean():.2f} labels on average"
    print(
        f"{run.path}: test n {len(table)}, ensemble of {found['num_folds']} folds {test['value']:.4f} "
        f"[{test['low']:.4f}, {test['high']:.4f}], mean fold {test['mean']:.4f} (sd {test['sd']:.4f}, best "
        f"{max(test['per_fold']):.4f}): {gain:+.2f} points; model.onnx and the mean of the folds differ by at most "
        f"{apart:.1e}; {covered}",
        flush=True,
    )
    return gain, apart


def main() -> int:
    """Measure each seed, or each run that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with a test split")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="finished cross-validations, to read only")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--settings", nargs="*", default=[], help="of train, for all runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [RunDir(path) for path in arguments.runs]
        for seed in arguments.seeds if arguments.data else ():
            words = [f"data.root={arguments.data}", f"data.num_folds={arguments.folds}", f"seed={seed}"]
            runs.append(perform("train", [*words, *arguments.settings, f"output={folder}"]).run_dir)
        found = [measure(run) for run in runs]
    gains = [gain for gain, _ in found]
    spread = f", sd {statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
    print(f"ensemble minus mean fold: {statistics.fmean(gains):+.2f} points over n {len(gains)} runs{spread}")
    return int(statistics.fmean(gains) < 0.5 or max(apart for _, apart in found) > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
