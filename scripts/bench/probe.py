"""Linear probe then fine-tune against full fine-tuning: accuracy and time on the same split, in turn.

resnet18 is trained at 32 px on the half of the classes with more images, and moved to the other half twice with each
seed. Both start from the same model.safetensors and differ in `transfer=` and in the number of epochs alone.

    python scripts/bench/probe.py --data FOLDER --work WORK --seeds 5 -- transforms.hflip=0.5

FOLDER holds train, val and test, each with a folder for every class. WORK keeps what was measured: seeds that are
there already are not run again, so a long measurement can be done in pieces.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from datetime import datetime
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
COMMON = (
    "model=resnet18",
    "model.pretrained=false",
    "data.image_size=32",
    "data.batch_size=32",
    "callbacks.early_stopping=null",
)
WAYS = {"full": "transfer=full", "probe": "transfer=lp_ft"}
METRIC = "balanced_accuracy"


def halves(data: Path, work: Path) -> tuple[Path, Path]:
    """Copy the larger and the smaller half of the classes into a folder each."""
    counts = {path.name: len(list(path.iterdir())) for path in (data / "train").iterdir()}
    classes = sorted(counts, key=lambda name: (-counts[name], name))
    middle = len(classes) // 2
    targets = work / "before", work / "after"
    for target, chosen in zip(targets, (classes[:middle], classes[middle:]), strict=True):
        for split in ("train", "val", "test"):
            for name in chosen:
                if not (target / split / name).exists():
                    shutil.copytree(data / split / name, target / split / name)
    return targets


def train(data: Path, output: Path, *settings: str) -> Path:
    """Train in a process of its own; returns the run folder."""
    subprocess.run(
        [PROGRAM, "train", f"data.root={data}", f"output={output}", *COMMON, *settings],
        cwd=output.parent, check=True, capture_output=True,
    )  # fmt: skip
    return max(path.parent for path in output.glob("*/*/result.json"))


def measure(run: Path) -> tuple[float, float]:
    """Seconds from the finished network to the end of the last epoch, probe included; and the metric on test."""
    lines = (run / "train.log").read_text().splitlines()
    times = {
        mark: [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in lines if mark in line]  # noqa: DTZ007 - differences
        for mark in (": weights: ", ": epoch ")
    }
    report = json.loads((run / "evaluation/classification_report.json").read_text())
    return (times[": epoch "][-1] - times[": weights: "][0]).total_seconds(), float(report["metrics"][METRIC]["value"])


def main() -> None:
    """Train the first network once, move it with each seed, and print the pairs and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that is kept between calls")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=100, help="new runs in this call")
    parser.add_argument("--epochs-before", type=int, default=40)
    parser.add_argument("--epochs-full", type=int, default=12)
    parser.add_argument("--epochs-probe", type=int, default=5)
    parser.add_argument("words", nargs="*", help="further settings of all runs, after two dashes")
    options = parser.parse_args()
    work = options.work.absolute()
    before, after = halves(options.data, work)
    weights = work / "model.safetensors"
    done = work / "measured.json"
    measured: dict[str, list[float]] = json.loads(done.read_text()) if done.exists() else {}
    if not weights.exists():
        run = train(before, work / "first", f"trainer.max_epochs={options.epochs_before}", *options.words)
        print(f"the first network, on {before.name}: {METRIC} {measure(run)[1]:.4f}", flush=True)
        shutil.copy(run / "model.safetensors", weights)
    epochs = {"full": options.epochs_full, "probe": options.epochs_probe}
    runs = 0
    for seed in range(options.seeds):
        # Whoever comes second may find a warmer machine, so the order changes.
        for way in list(WAYS)[:: 1 if seed % 2 == 0 else -1]:
            key = f"{way} {epochs[way]} {seed}"
            if key in measured or runs >= options.most:
                continue
            settings = [f"trainer.max_epochs={epochs[way]}", WAYS[way], f"model.weights={weights}", f"seed={seed}"]
            run = train(after, work / way, *settings, "callbacks.onnx_export=null", *options.words)
            measured[key] = list(measure(run))
            runs += 1
            done.write_text(json.dumps(measured, indent=1))
            print(f"{key}: {measured[key][1]:.4f} in {measured[key][0]:.1f} s", flush=True)
    found = [
        [measured[key] for key in (f"{way} {epochs[way]} {seed}" for way in WAYS)]
        for seed in range(options.seeds)
        if all(f"{way} {epochs[way]} {seed}" in measured for way in WAYS)
    ]
    if len(found) < 2:
        print("two seeds or more are needed for a mean")
        return
    gains = [probe[1] - full[1] for full, probe in found]
    ratios = [probe[0] / full[0] for full, probe in found]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    print(
        f"full, {epochs['full']} epochs: {statistics.fmean(full[1] for full, _ in found):.4f}; "
        f"probe, {epochs['probe']} epochs: {statistics.fmean(probe[1] for _, probe in found):.4f}; "
        f"difference {statistics.fmean(gains):+.4f} "
        f"+- {error:.4f} (standard error), time {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f}), n {len(found)}"
    )


if __name__ == "__main__":
    main()
