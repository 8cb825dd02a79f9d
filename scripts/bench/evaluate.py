"""Time and peak memory of scoring stored answers: all figures, with and without intervals, and an evaluation's files.

Each is measured in a process of its own; its memory is that of the whole process, imports included.

python scripts/bench/evaluate.py --images 50000 --classes 100 --repeats 3
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from classifier_training.core.runtime import num_cores, peak_memory_mb, versions
from classifier_training.core.types import SplitResult, SplitTable
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.measures import measure
from classifier_training.evaluation.metrics import cross_entropies
from classifier_training.evaluation.plots import draw_results
from classifier_training.evaluation.results import evaluate_predictions, write_results

TASKS = ("figures", "intervals", "files")


def made_answers(images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, K] and class numbers [N] of a long-tailed set, answered right in four of five cases."""
    random = np.random.default_rng(0)
    shares = 20.0 ** -np.linspace(0, 1, classes)
    targets = random.choice(classes, images, p=shares / shares.sum()).astype(np.int64)
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), targets] += 3.5
    return logits, targets


def run_task(task: str, images: int, classes: int) -> None:
    """Do one task and print its seconds and the peak memory."""
    logits, targets = made_answers(images, classes)
    started = time.perf_counter()
    if task == "files":
        losses = cross_entropies(logits, targets)
        names = [f"class_{number:04d}" for number in range(classes)]
        table = SplitTable("test", [f"{row:06d}.png" for row in range(images)], targets, [""] * images)
        result = SplitResult("test", logits, targets, np.arange(images), losses, {"balanced_accuracy": 0.0})
        with tempfile.TemporaryDirectory() as folder, Drawer() as drawer:
            evaluation = evaluate_predictions(result, table, names)
            write_results(Path(folder), result, table, names, evaluation, source="bench")
            draw_results(Path(folder), result, table, names, evaluation, drawer)
    else:
        measure(logits, targets, num_classes=classes, intervals=task == "intervals")
    print(time.perf_counter() - started, peak_memory_mb())


def main() -> None:
    """Print seconds and memory of each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        run_task(options.task, options.images, options.classes)
        return
    print(f"{options.images:,} images, {options.classes:,} classes, {num_cores()} cores, numpy {versions()['numpy']}")
    size = [f"--images={options.images}", f"--classes={options.classes}"]
    for task in TASKS:
        words = [sys.executable, __file__, *size, f"--task={task}"]
        outputs = [
            subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
            for _ in range(options.repeats)
        ]
        seconds, memory = zip(*(map(float, output) for output in outputs), strict=True)
        print(
            f"{task:<10} {statistics.median(seconds):6.2f} s (min {min(seconds):.2f}, max {max(seconds):.2f}, "
            f"n {len(seconds)}), peak {max(memory):,.0f} MB"
        )


if __name__ == "__main__":
    main()
