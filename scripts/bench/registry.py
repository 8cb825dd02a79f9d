"""How soon `classifier-training registry list` answers over thousands of runs, with its cache and without.

The run folders are made up: they hold the small files of a run, and no weights.

    python scripts/bench/registry.py --runs 10000 --repeats 10
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
MODELS = ("resnet18", "resnet50", "mobilenetv4_conv_small", "small_cnn")
START = datetime(2026, 1, 1).astimezone()


def make_run(root: Path, number: int) -> None:
    """Write the small files of one finished run."""
    started = START + timedelta(minutes=7 * number)
    folder = root / started.strftime("%Y-%m-%d") / started.strftime("%H-%M-%S")
    (folder / "evaluation").mkdir(parents=True)
    score = (number * 7919 % 1000) / 1000
    config = {"model": {"type": MODELS[number % len(MODELS)]}, "data": {"root": "/data/animals"}, "seed": number}
    metrics = {"loss": 1 - score, "acc_top1": score, "balanced_accuracy": score, "macro_f1": score}
    info = {
        "class_names": ["cat", "dog"],
        "model_architecture": config["model"]["type"],  # type: ignore[index]
        "training_info": {"best_metric": {"name": "val/balanced_accuracy", "value": score}, "config": config},
        "files": {},
    }
    result = {"split": "test", "best_epoch": 1, "metrics": metrics}
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "model_info.json").write_text(json.dumps(info))
    (folder / "result.json").write_text(json.dumps(result))
    report = {"split": result["split"], "metrics": {key: {"value": value} for key, value in metrics.items()}}
    (folder / "evaluation/classification_report.json").write_text(json.dumps(report))
    (folder / "metrics.csv").write_text("epoch,epoch_seconds\n0,1.5\n1,1.5\n")


def seconds_of(command: list[str]) -> float:
    """Run a command to its end; returns how long that took."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Make the runs, and time whole processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for number in range(arguments.runs):
            make_run(root, number)
        listing = [PROGRAM, "registry", "list", f"output={root}"]
        first = seconds_of(listing)
        time.sleep(2.5)  # a folder that has only just changed is read again, to be sure
        seconds_of(listing)
        measured = {
            "warm": [seconds_of(listing) for _ in range(arguments.repeats)],
            "warm, best of one model": [
                seconds_of([*listing, "model=resnet18", "sort=best"]) for _ in range(arguments.repeats)
            ],
            "start alone (completion)": [
                seconds_of([PROGRAM, "completion", "shell=bash"]) for _ in range(arguments.repeats)
            ],
        }
        (root / "training_registry.json").unlink()
        rebuilt = seconds_of(listing)
    print(f"{arguments.runs:,} runs, whole processes, n {arguments.repeats}: median (min to max) in s")
    for name, seconds in measured.items():
        print(f"  {name:<26} {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"  {'first sight, numbering all':<26} {first:.2f}")
    print(f"  {'without the cache':<26} {rebuilt:.2f}")


if __name__ == "__main__":
    main()
