"""Time and memory of what an evaluation does with stored predictions, stage by stage, at one or several sizes.

Each stage is measured in a process of its own, without the stages before it. Seconds are those of processors, the
painting process included: other work on the machine lengthens them little. Memory is the most that the process held
besides mapped files, imports included; predictions of more than 1 GiB are a mapped file, as in `evaluate`. The slope is
that of the logarithm of the seconds over the logarithm of the rows, between the first and the last size.

python scripts/bench/evaluate.py --rows 20000 200000 --classes 100
python scripts/bench/evaluate.py --rows 2000000 --classes 1000 --stages metrics tables --folder /scratch
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.run_dir import RunDir, write_json
from classifier_training.core.runtime import num_cores, versions
from classifier_training.core.types import SplitResult, SplitTable, row_blocks, softmax
from classifier_training.evaluation.calibration import choose_temperature
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.label_quality import find_label_issues
from classifier_training.evaluation.label_sets import TrueScores
from classifier_training.evaluation.measures import measure
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies
from classifier_training.evaluation.plots import draw_results
from classifier_training.evaluation.reject import class_curves
from classifier_training.evaluation.results import evaluate_predictions, write_results
from classifier_training.evaluation.selective import write_selective
from classifier_training.workflows.evaluating.finished import read_run_predictions
from classifier_training.workflows.evaluating.run_page import write_run_page
from classifier_training.workflows.evaluating.scores import MAX_IN_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GROUP_SIZE, NUM_VALIDATION = 20, 5000
TEMPERATURE = 1.3


def make_predictions(folder: Path, rows: int, classes: int) -> None:
    """Logits [N, K] and class numbers [N] of a long-tailed set, classified correctly in four of five cases."""
    random = np.random.default_rng(0)
    shares = 20.0 ** -np.linspace(0, 1, classes)
    targets = random.choice(classes, rows, p=shares / shares.sum()).astype(np.int64)
    np.save(folder / "targets.npy", targets)
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.float32, (rows, classes))
    for block in row_blocks(logits.shape):
        some = random.standard_normal(logits[block].shape, dtype=np.float32)
        some[np.arange(len(some)), targets[block]] += 2.5 + math.log10(classes)
        logits[block] = some
    logits.flush()


class Stages:
    """The predictions of a folder, and what is done with them."""

    def __init__(self, folder: Path) -> None:
        path = folder / "logits.npy"
        self.logits: NDArray[np.float32] = np.load(path, mmap_mode="r" if path.stat().st_size > MAX_IN_MEMORY else None)
        targets = np.load(folder / "targets.npy")
        rows, classes = self.logits.shape
        self.names = [f"class_{number:04d}" for number in range(classes)]
        paths = [f"/images/{row:07d}.png" for row in range(rows)]
        self.table = SplitTable("test", paths, targets, [""] * rows)
        losses = cross_entropies(self.logits, targets, TEMPERATURE)
        self.result = SplitResult(
            "test", self.logits, targets, np.arange(rows), losses, {"balanced_accuracy": 0.0}, TEMPERATURE
        )
        self.folder = folder / "evaluation"
        self.folder.mkdir(exist_ok=True)

    def prepare(self, stage: str) -> Callable[[], object]:
        """Return the stage, all that it needs done."""
        result, table, names = self.result, self.table, self.names
        logits, targets, folder = self.logits, result.targets, self.folder
        if stage == "epoch":
            return lambda: classification_metrics(logits, targets, result.losses, names)
        if stage == "ranked":
            return lambda: classification_metrics(logits, targets, result.losses, names, also=["macro_auroc"])
        if stage in ("metrics", "intervals"):
            return lambda: measure(
                logits, targets, num_classes=len(names), temperature=TEMPERATURE, intervals=stage == "intervals"
            )
        if stage == "groups":
            groups = [f"g{row // GROUP_SIZE}" for row in range(len(targets))]
            grouped = SplitTable("test", table.paths, targets, groups)
            slices = {"place": [f"{row % 50}" for row in range(len(targets))], "group": groups}
            return lambda: evaluate_predictions(result, grouped, names, slices=slices)
        if stage == "rejection":
            some = slice(0, NUM_VALIDATION)
            shares = softmax(logits[some])
            choice = choose_temperature(logits[some], targets[some])
            curves, scores = class_curves(shares, targets[some], names), TrueScores.of(shares, targets[some])
            return lambda: self._drawn(
                lambda drawer: write_selective(
                    folder, result, names, choice=choice, curves=curves, scores=scores, drawer=drawer
                )
            )
        if stage == "temperature":
            return lambda: choose_temperature(logits[:NUM_VALIDATION], targets[:NUM_VALIDATION])
        if stage == "labels":
            return lambda: find_label_issues(targets, softmax(logits))
        evaluation = evaluate_predictions(result, table, names, intervals=False)
        if stage == "tables":
            return lambda: write_results(folder, result, table, names, evaluation, source="bench")
        if stage == "plots":
            return lambda: self._drawn(lambda drawer: draw_results(folder, result, table, names, evaluation, drawer))
        run = RunDir(folder.parent)
        if stage == "read":
            write_results(folder, result, table, names, evaluation, source="bench")
            return lambda: read_run_predictions(run)
        write_json(folder / "calibration.json", {"temperature": None, "ece_before": 0.1, "ece_after": 0.1, "aurc": 0.1})
        return lambda: write_run_page(
            run.report, run, folder, result, table, names, evaluation, temperature=TEMPERATURE
        )

    @staticmethod
    def _drawn(draw: Callable[[Drawer], object]) -> None:
        with Drawer() as drawer:
            draw(drawer)


STAGES = (
    "epoch", "ranked", "metrics", "intervals", "groups", "temperature", "rejection", "tables", "read", "plots", "page",
    "labels",
)  # fmt: skip


def memory_mb() -> float:
    """Memory of this process besides mapped files, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


def processor_seconds() -> float:
    """Seconds of processors that this process and its ended children have used."""
    return sum(os.times()[:4])


def run_stage(folder: Path, stage: str) -> None:
    """Do one stage and print its seconds and the most memory that it took."""
    task = Stages(folder).prepare(stage)
    most, ended = [memory_mb()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            most[0] = max(most[0], memory_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = processor_seconds()
    task()
    seconds = processor_seconds() - started
    ended.set()
    watcher.join()
    page = folder / "report.html"
    print(seconds, most[0], page.stat().st_size / 1e6 if stage == "page" else 0)


def main() -> None:
    """Print seconds and memory of each stage at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--folder", type=Path, help="where the predictions are written, and deleted again")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.folder, options.stage)
        return
    print(f"{options.classes:,} classes, {num_cores()} cores, numpy {versions()['numpy']}, n {options.repeats}")
    medians: dict[str, list[float]] = {stage: [] for stage in options.stages}
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            make_predictions(Path(folder), rows, options.classes)
            for stage in options.stages:
                words = [sys.executable, __file__, f"--folder={folder}", f"--stage={stage}"]
                outputs = [
                    subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
                    for _ in range(options.repeats)
                ]
                seconds, memory, page = zip(*(map(float, output) for output in outputs), strict=True)
                medians[stage].append(statistics.median(seconds))
                print(
                    f"{rows:>10,} rows  {stage:<12} {medians[stage][-1]:8.2f} s (min {min(seconds):.2f}, max "
                    f"{max(seconds):.2f}), {max(memory):7,.0f} MB" + (f", page {max(page):.1f} MB" if page[0] else ""),
                    flush=True,
                )
    if len(options.rows) > 1:
        span = math.log(options.rows[-1] / options.rows[0])
        for stage, (first, *_, last) in medians.items():
            print(f"{stage:<12} slope {math.log(last / first) / span:.2f}")


if __name__ == "__main__":
    main()
