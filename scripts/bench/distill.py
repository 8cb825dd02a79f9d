"""What a teacher is worth to the student, and what its kept answers cost in time, seed by seed.

For each seed one `distill` trains the student alone and with the teacher, on the same images and in turn. Seeds are
added to those that the output file has, so they can be measured one at a time:

    python scripts/bench/distill.py --teacher RUN --seeds 0 --output distill.json -- transforms=none …
    python scripts/bench/distill.py --teacher RUN --seeds 1 2 3 4 --output distill.json -- transforms=none …

What follows the two dashes are settings of `distill`; with pruning=channels the student is the teacher, pruned.
Answers are kept only where augmentation changes no image.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from peers import machine

from classifier_training.cli import perform
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import log_to_screen, num_cores


def epoch_seconds(run: str) -> float:
    """Median seconds of an epoch, the first left out, in which caches fill."""
    with (Path(run) / "metrics.csv").open(encoding="utf-8", newline="") as file:
        seconds = [float(row["epoch_seconds"]) for row in csv.DictReader(file)]
    return statistics.median(seconds[1:] or seconds)


def measure(teacher: str, seed: int, words: list[str], output: Path) -> dict[str, Any]:
    """Train the student alone and with its teacher; returns both runs' figures."""
    own = [f"teacher={teacher}", f"seeds={seed}", f"output={output}"]
    result = perform("distill", [*own, *words])
    print(result, flush=True)
    found = json.loads((result.folder / "distillation.json").read_text(encoding="utf-8"))
    runs = [{**run, "epoch_seconds": epoch_seconds(run["run"])} for run in found["runs"]]
    return {"seed": seed, "teacher": found["teacher"], "student": found["student"], "runs": runs}


def table(measured: list[dict[str, Any]]) -> str:
    """The gain of each way to teach over the student alone, paired by seed, and its time."""
    lines = [
        f"{part} {found['name']}: accuracy {found['accuracy']:.4f}, {found['size_mb']:.1f} MB, "
        f"{found['latency_ms']:.2f} ms"
        for part, found in ((part, measured[0][part]) for part in ("teacher", "student"))
    ]
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for item in measured:
        alone = next(run for run in item["runs"] if run["taught"] is None)
        for run in item["runs"]:
            if run["taught"] is not None:
                pairs.setdefault(json.dumps(run["taught"]), []).append((run, alone))
    for taught, found in pairs.items():
        gains = [run["accuracy"] - alone["accuracy"] for run, alone in found]
        alone_accuracies = [alone["accuracy"] for _, alone in found]
        times = [run["epoch_seconds"] / alone["epoch_seconds"] for run, alone in found]
        spreads = [statistics.stdev(values) if len(found) > 1 else float("nan") for values in (gains, alone_accuracies)]
        lines.append(
            f"{taught}: n {len(found)}  alone {statistics.fmean(alone_accuracies):.4f} (spread {spreads[1]:.4f})  "
            f"gain {statistics.fmean(gains):+.4f} (spread {spreads[0]:.4f}, {min(gains):+.4f} to {max(gains):+.4f})  "
            f"time {statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the seeds that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="run folder")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("outputs"), help="folder for the runs")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all seeds, to which these are added")
    parser.add_argument("words", nargs="*", help="settings of distill, after two dashes")
    options = parser.parse_args()
    log_to_screen()
    measured: list[dict[str, Any]] = []
    if options.output.exists():
        measured = json.loads(options.output.read_text(encoding="utf-8"))["seeds"]
    for seed in options.seeds:
        if any(item["seed"] == seed for item in measured):
            continue
        measured.append(measure(options.teacher, seed, options.words, options.runs))
        write_json(options.output, {"machine": machine(num_cores()), "words": options.words, "seeds": measured})
    print(table(measured))


if __name__ == "__main__":
    main()
