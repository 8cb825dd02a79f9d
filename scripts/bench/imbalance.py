"""Compare the corrections of unbalanced classes with plain cross-entropy, on the same files and the same seeds.

Each run is a `classifier-training train` of its own, with all defaults but the correction. Runs are added to those that
the output file has, so seeds can be measured one at a time:

    python scripts/bench/imbalance.py --archive cifar10_longtail.tar --seeds 1 2 3 --output imbalance.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from peers import machine, measure
from peers_contestants import TASKS, ours, unpack

PLAIN = "none"


def row(name: str, done: list[dict[str, Any]], plain: list[dict[str, Any]]) -> str:
    """One line of the table: accuracy, and what is gained and spent beside plain cross-entropy, paired by seed."""
    by_seed = {run["seed"]: run for run in plain}
    pairs = [(run, by_seed[run["seed"]]) for run in done if run["seed"] in by_seed]
    accuracies = [run["accuracy"] for run in done]
    gains = [one["accuracy"] - other["accuracy"] for one, other in pairs]
    times = [one["fit_seconds"] / other["fit_seconds"] for one, other in pairs]
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return (
        f"{name:<32} n {len(done)}  {statistics.fmean(accuracies):.4f} ({min(accuracies):.4f} to {max(accuracies):.4f})"
        f"  gain {statistics.fmean(gains):+.4f} (standard error {error:.4f})"
        f"  time {statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"
    )


def main() -> None:
    """Train with each correction and each seed in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="tar of a folder with train, val and test")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--switches", nargs="+", default=[PLAIN, "auto"], help="words after imbalance=, with commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON with all runs, to which these are added")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {}
    if options.output.exists():
        runs = json.loads(options.output.read_text(encoding="utf-8"))["runs"]
    with tempfile.TemporaryDirectory(prefix="imbalance-") as name:
        data = unpack(options.archive, Path(name))
        for seed in options.seeds:
            for switch in options.switches:
                if any(run["seed"] == seed for run in runs.get(switch, [])):
                    continue
                words = [f"imbalance={switch.partition(',')[0]}", *switch.split(",")[1:]]
                run = measure(ours(TASKS["longtail"], data, words), seed, options.threads, switch)
                found = {"seed": seed, "accuracy": run.score.test_balanced_accuracy, "wall_seconds": run.seconds}
                runs.setdefault(switch, []).append({**found, "fit_seconds": run.score.fit_seconds})
                results = {"machine": machine(options.threads), "runs": runs}
                options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print("test balanced accuracy: mean (min to max); gain and time of the epochs beside imbalance=none")
    for switch, done in runs.items():
        print(row(f"imbalance={switch}", done, runs[PLAIN]))


if __name__ == "__main__":
    main()
