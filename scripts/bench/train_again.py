"""Training again with replay against training anew: two classes added to the others of a data set, seed by seed.

Seed s leaves out the classes with the numbers s and s + K / 2, by size, so that every pair has a rarer and a more
frequent one. A network that is trained on the others is production; then the two classes are added, once by
`train NEW init_from=PRODUCTION replay=SHARE` and once by training anew on all images. All are commands of their own,
scored on the same test images.

    python scripts/bench/train_again.py --data DATA --output again.json
    python scripts/bench/train_again.py --data DATA --seeds 0 1 --output again.json -- data.image_size=32

DATA is a folder with train, val and test, a folder a class each. Seeds are added to those that the output file has.
Times are processor times of the whole command, its start and end included. What follows the two dashes are settings of
all three commands.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import machine

from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import num_cores
from classifier_training.evaluation.comparison import SIGNIFICANCE, holm, mcnemar

SETTINGS = (
    "data.image_size=64", "data.follow_links=true", "trainer.accelerator=cpu", "callbacks=[checkpoint,onnx_export]",
)  # fmt: skip


def command(*words: str) -> tuple[float, float]:
    """Run a command; returns its processor seconds and those on the clock."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "classifier_training", *words], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - started


def link_classes(data: Path, names: list[str], folder: Path) -> Path:
    """Make a data set of some classes of another, by links."""
    for split in sorted(path for path in data.iterdir() if path.is_dir()):
        (folder / split.name).mkdir(parents=True, exist_ok=True)
        for name in names:
            place = folder / split.name / name
            if not place.is_symlink():
                place.symlink_to((split / name).resolve())
    return folder


def run_of(output: Path) -> Path:
    """The newest finished run below a folder."""
    return max((path.parent for path in output.rglob("result.json")), key=lambda path: path.stat().st_mtime)


def predictions(run: Path) -> dict[str, tuple[str, str]]:
    """True and predicted label of each test image, by class and name of the file."""
    with (run / "evaluation" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return {"/".join(row["path"].split("/")[-2:]): (row["true"], row["predicted"]) for row in csv.DictReader(file)}


def recalls(found: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Recall of each class."""
    hits: dict[str, list[bool]] = {}
    for true, predicted in found.values():
        hits.setdefault(true, []).append(true == predicted)
    return {name: statistics.fmean(values) for name, values in sorted(hits.items())}


def worse(found: dict[str, tuple[str, str]], others: dict[str, tuple[str, str]], names: list[str]) -> list[str]:
    """Classes with a significantly lower recall: McNemar's exact test, adjusted after Holm for their number."""
    lost, gained = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for path in found.keys() & others.keys():
        (true, one), (_, other) = found[path], others[path]
        if true in lost and (one == true) != (other == true):
            (gained if one == true else lost)[true] += 1
    p_values = holm([mcnemar(gained[name], lost[name]) for name in names])
    return [name for name, p in zip(names, p_values, strict=True) if p < SIGNIFICANCE and lost[name] > gained[name]]


def measure(data: Path, seed: int, words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Train production, again and anew with one seed."""
    folders = sorted((data / "train").iterdir(), key=lambda path: (sum(1 for _ in path.iterdir()), path.name))
    names = [path.name for path in folders]
    half = len(names) // 2
    new = [names[seed % half], names[seed % half + half]]
    old = sorted(set(names) - set(new))
    place: Path = options.folder / str(seed)
    before, added = link_classes(data, old, place / "old"), link_classes(data, new, place / "new")
    own = [*SETTINGS, *words, f"seed={seed}"]
    times: dict[str, tuple[float, float]] = {}
    runs: dict[str, Path] = {}
    for name, given in (
        ("production", [str(before), f"trainer.max_epochs={options.epochs}"]),
        ("again", [str(added), f"replay={options.replay}", f"trainer.max_epochs={options.again_epochs}"]),
        ("anew", [str(data), f"trainer.max_epochs={options.epochs}"]),
    ):
        start = [f"init_from={runs['production']}"] if name == "again" else []
        times[name] = command("train", *own, *given, *start, f"output={place / name}")
        runs[name] = run_of(place / name)
    found = {name: predictions(run) for name, run in runs.items()}
    by_class = {name: recalls(one) for name, one in found.items()}
    return {
        "seed": seed,
        "new": new,
        "balanced_accuracy": {name: statistics.fmean(values.values()) for name, values in by_class.items()},
        "old_balanced_accuracy": {
            name: statistics.fmean(values[one] for one in old) for name, values in by_class.items()
        },
        "recalls": by_class,
        "worse_than_anew": worse(found["again"], found["anew"], old),
        "worse_than_production": worse(found["again"], found["production"], old),
        "anew_worse_than_production": worse(found["anew"], found["production"], old),
        "processor_seconds": {name: seconds for name, (seconds, _) in times.items()},
        "seconds": {name: seconds for name, (_, seconds) in times.items()},
        "runs": {name: str(run) for name, run in runs.items()},
    }


def table(measured: list[dict[str, Any]]) -> str:
    """A line for each seed, and the means with their spread."""
    lines = ["seed  new classes            again   anew    difference  worse than anew   processor time again / anew"]
    differences, shares = [], []
    for item in measured:
        again, anew = (item["balanced_accuracy"][name] for name in ("again", "anew"))
        seconds = [item["processor_seconds"][name] for name in ("again", "anew")]
        differences.append(again - anew)
        shares.append(seconds[0] / seconds[1])
        lines.append(
            f"{item['seed']:<5} {' + '.join(item['new']):<22} {again:.4f}  {anew:.4f}  {again - anew:+.4f}     "
            f"{', '.join(item['worse_than_anew']) or 'none':<17} "
            f"{seconds[0]:.0f} s / {seconds[1]:.0f} s = {shares[-1]:.2f}"
        )
    number = len(measured)
    spread = statistics.stdev(differences) if number > 1 else float("nan")
    count = sum(bool(item["worse_than_anew"]) for item in measured)
    total = np.sum([[item["processor_seconds"][name] for name in ("again", "anew")] for item in measured], axis=0)
    means = f"{statistics.fmean(shares):.2f} in the mean of the seeds, {total[0] / total[1]:.2f} in all"
    lines += [
        f"n {number}: balanced accuracy of again minus anew {statistics.fmean(differences):+.4f} (spread {spread:.4f})",
        f"seeds with an old class significantly worse than anew: {count} of {number}",
        f"processor time of again over anew: {means}",
    ]
    for name, key in (("again", "worse_than_production"), ("anew", "anew_worse_than_production")):
        lost = [f"{item['seed']}: {', '.join(item[key])}" for item in measured if item[key]]
        lines.append(f"old classes significantly worse than production, {name}: {'; '.join(lost) or 'none'}")
    return "\n".join(lines)


def main() -> None:
    """Measure the seeds that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=6, help="of production and of training anew")
    parser.add_argument("--again-epochs", type=int, default=6, help="of training again")
    parser.add_argument("--replay", type=float, default=0.2)
    parser.add_argument("--folder", type=Path, default=Path("again"), help="for links and runs")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all seeds, to which these are added")
    parser.add_argument("words", nargs="*", help="settings of all commands, after two dashes")
    options = parser.parse_args()
    measured: list[dict[str, Any]] = []
    if options.output.exists():
        measured = json.loads(options.output.read_text(encoding="utf-8"))["seeds"]
    for seed in options.seeds:
        if seed not in {item["seed"] for item in measured}:
            measured.append(measure(options.data, seed, options.words, options))
            facts = {"machine": machine(1), "cores": num_cores(), "replay": options.replay, "words": options.words}
            write_json(options.output, {**facts, "seeds": measured})
            print(table(measured), flush=True)
    print(table(sorted(measured, key=lambda item: int(item["seed"]))))


if __name__ == "__main__":
    main()
