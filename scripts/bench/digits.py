"""`train` with no arguments: how long it takes, and how it compares with a support vector machine on the same split.

python scripts/bench/digits.py --seeds 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from sklearn.svm import SVC

from classifier_training.data.sample_sets.builders import digits_folder

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels scaled to 0..1, [N, 64], and labels [N] of one split."""
    paths = sorted((digits_folder() / split).glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(path), dtype=np.float64).ravel() / 255 for path in paths])
    return pixels, np.array([int(path.parent.name) for path in paths])


def support_vector_machine() -> float:
    """Balanced accuracy on test of an RBF machine with balanced class weights, C and gamma chosen on validation."""
    (train, train_labels), (val, val_labels), (test, test_labels) = map(load, ("train", "val", "test"))
    best: tuple[float, SVC] | None = None
    for c in (0.1, 1.0, 10.0, 100.0):
        for gamma in ("scale", 0.01, 0.03, 0.1, 0.3):
            machine = SVC(C=c, gamma=gamma, class_weight="balanced").fit(train, train_labels)
            score = float(balanced_accuracy_score(val_labels, machine.predict(val)))
            if best is None or score > best[0]:
                best = (score, machine)
    assert best is not None
    return float(balanced_accuracy_score(test_labels, best[1].predict(test)))


def ours(seed: int) -> tuple[float, float]:
    """Seconds of the whole process, and balanced accuracy on test."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([PROGRAM, "train", f"seed={seed}"], cwd=folder, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        (report,) = Path(folder).glob("outputs/*/*/evaluation/classification_report.json")
        return seconds, float(json.loads(report.read_text())["metrics"]["balanced_accuracy"]["value"])


def main() -> None:
    """Run every seed and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print(f"support vector machine, tuned on validation: {support_vector_machine():.4f}")
    runs = []
    for seed in range(seeds):
        runs.append(ours(seed))
        print(f"classifier-training, seed {seed}: {runs[-1][1]:.4f} in {runs[-1][0]:.1f} s", flush=True)
    seconds, scores = zip(*runs, strict=True)
    print(
        f"classifier-training: mean {statistics.fmean(scores):.4f} (min {min(scores):.4f}, max {max(scores):.4f}), "
        f"median {statistics.median(seconds):.1f} s (max {max(seconds):.1f} s), n {seeds}"
    )


if __name__ == "__main__":
    main()
