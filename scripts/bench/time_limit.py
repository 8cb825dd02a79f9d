"""Compare `train time=…` with the number of epochs that takes equally long.

The epochs are counted up with the first seed until the whole command takes longer than the limit; the number whose
command came nearest to the limited one is then run with the other seeds. Time, test score and their differences are
printed.

    python scripts/bench/time_limit.py --set rooms=/data/rooms dogcat=/data/dogcat --limit 60 --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from recipes import run_process

PROGRAM = Path(sys.executable).with_name("classifier-training")
MAX_EPOCHS = 20


def run(folder: Path, options: argparse.Namespace, seed: int, *settings: str) -> tuple[float, float]:
    """Return the seconds of a whole command, and the balanced accuracy on test."""
    with tempfile.TemporaryDirectory(prefix="time-limit-") as name:
        words = [f"data.root={folder}", f"data.image_size={options.image_size}", f"seed={seed}", "allow_leaks=true"]
        started = time.perf_counter()
        run_process([str(PROGRAM), "train", *words, *settings, f"output={name}"], options.threads)
        seconds = time.perf_counter() - started
        (report,) = Path(name).glob("*/*/evaluation/classification_report.json")
        score = json.loads(report.read_text(encoding="utf-8"))["metrics"]["balanced_accuracy"]["value"]
    print(f"  seed {seed}  {' '.join(settings):<12}  {seconds:6.1f} s  {score:.4f}", flush=True)
    return seconds, score


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Run a data set with the limit and with epochs, and print the differences."""
    first, *others = options.seeds
    limited = [run(folder, options, first, f"time={options.limit}s")]
    counted: list[tuple[float, float]] = []
    while len(counted) < MAX_EPOCHS and (not counted or counted[-1][0] < limited[0][0]):
        counted.append(run(folder, options, first, f"epochs={len(counted) + 1}"))
    nearest = min(range(len(counted)), key=lambda place: abs(counted[place][0] - limited[0][0]))
    equal = [counted[nearest]]
    for seed in others:
        limited.append(run(folder, options, seed, f"time={options.limit}s"))
        equal.append(run(folder, options, seed, f"epochs={nearest + 1}"))
    gains = [100 * (one[1] - two[1]) for one, two in zip(limited, equal, strict=True)]
    spread = f", sd {statistics.stdev(gains):.2f}" if len(gains) > 1 else ""
    print(
        f"  time={options.limit}s: at most {max(seconds for seconds, _ in limited):.1f} s; less epochs={nearest + 1} "
        f"({statistics.fmean(seconds for seconds, _ in equal):.1f} s): "
        f"{statistics.fmean(gains):+.2f} points (n {len(gains)}{spread})"
    )


def main() -> None:
    """Compare on each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--limit", type=int, default=60, help="seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for text in options.set:
        name, _, folder = text.partition("=")
        print(name)
        compare(Path(folder).absolute(), options)


if __name__ == "__main__":
    main()
