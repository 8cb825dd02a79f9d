"""How soon the program answers: the help against importing what training needs, and `train` on data that it knows.

python scripts/bench/startup.py --repeats 10
python scripts/bench/startup.py --images 60000 --repeats 5 --earlier /my/other/checkout
python scripts/bench/startup.py --images 200000 --whole

With images, `train` is started on so many small PNGs and, for what does not depend on the data, on very few; the
difference is the time until the network is built, after which the program is killed. The first start of each checkout
has an empty cache folder; the others follow it. An earlier version, in a checkout with an environment, takes turns.
With --whole, an epoch of `train` and `predict` of the same images run to their ends; printed are seconds and memory.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PROGRAM = str(Path(sys.executable).with_name("classifier-training"))
COMMANDS = {
    "help": [PROGRAM, "--help"],
    "train help": [PROGRAM, "train", "--help"],
    "wrong setting": [PROGRAM, "train", "data.root=/nowhere", "optimizer.lr=fast"],
    "imports": [sys.executable, "-c", "import torch, pytorch_lightning, timm"],
}

NUM_CLASSES, NUM_FEW = 10, 100

BUILT = re.compile(r"(model: .*, |weights: )\w+")
"""The line that says which weights the network has."""


class Seconds(NamedTuple):
    """Time until the network was built, and processor time of the program until then."""

    wall: float
    cpu: float


def time_commands(repeats: int) -> None:
    """Time each command in turn and print its share of the imports' time."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            if repeat:  # the first round warms the file cache
                seconds[name].append(time.perf_counter() - started)
    for name, measured in seconds.items():
        share = ratio(measured, seconds["imports"])
        print(f"{name:<14} {statistics.median(measured):6.2f} s, of the imports' time {share}")


def time_data(folder: Path, num_images: int, repeats: int, earlier: Path | None) -> None:
    """Time the first and the later starts of each checkout, and print their ratios."""
    for name, number in (("many", num_images), ("few", NUM_FEW)):
        make_images(folder / name, number)
    programs = {"this": PROGRAM} | ({"earlier": str(earlier / ".venv/bin/classifier-training")} if earlier else {})
    found: dict[tuple[str, int], Seconds] = {}
    for repeat, (name, program) in product(range(repeats + 1), programs.items()):
        cache = folder / f"cache_{name}"
        many, few = (start(program, folder / data, cache, folder / "runs") for data in ("many", "few"))
        found[name, repeat] = Seconds(many.wall - few.wall, many.cpu - few.cpu)
        print(f"{name} start {repeat + 1}: {many.wall:.2f} - {few.wall:.2f} s", flush=True)
    for field in Seconds._fields:
        print(f"\n{'time' if field == 'wall' else 'processor time'} for {num_images:,} images, imports subtracted:")
        measured = {
            (name, is_first): [
                getattr(found[name, repeat], field) for repeat in range(repeats + 1) if (repeat == 0) == is_first
            ]
            for name, is_first in product(programs, (True, False))
        }
        for (name, is_first), seconds in measured.items():
            spread = f" (min {min(seconds):.2f}, max {max(seconds):.2f}, n {len(seconds)})"
            print(f"{name} {'first' if is_first else 'later'}: {statistics.median(seconds):.2f} s{spread}")
            if name == "this" and earlier:
                print(f"  of the earlier version's: {ratio(seconds, measured['earlier', is_first])}")


def ratio(ones: list[float], others: list[float]) -> str:
    """Return the median ratio of measurements that were taken in turn, with its spread."""
    found = [one / other for one, other in zip(ones, others, strict=True)]
    return f"{statistics.median(found):.3f} (min {min(found):.3f}, max {max(found):.3f}, n {len(found)})"


def make_images(folder: Path, number: int) -> None:
    """Write small noisy PNGs, a folder a class, unless they are there."""
    if folder.exists():
        return
    rng = np.random.default_rng(number)
    for label in range(NUM_CLASSES):
        (folder / f"class_{label}").mkdir(parents=True)
    for row in range(number):
        colours = Image.fromarray(rng.integers(0, 248, (4, 4, 3), dtype=np.uint8)).resize((32, 32))
        pixels = np.asarray(colours) + rng.integers(0, 8, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class_{row % NUM_CLASSES}/{row:07d}.png", compress_level=1)


def start(program: str, data: Path, cache: Path, output: Path) -> Seconds:
    """Train until the network is built, then kill the program."""
    settings = [f"data.root={data}", f"output={output}", "model=cnn_v1", "data.image_size=32", "trainer.max_epochs=1"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [program, "train", *settings],
        env={**os.environ, "CLASSIFIER_TRAINING_CACHE": str(cache)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if BUILT.match(line):
            break
    wall = time.perf_counter() - started
    os.killpg(process.pid, signal.SIGKILL)
    usage = os.wait4(process.pid, 0)[2]
    if not lines or not BUILT.match(lines[-1]):
        raise SystemExit("".join(lines))
    return Seconds(wall, usage.ru_utime + usage.ru_stime)


def run_whole(folder: Path, number: int) -> None:
    """Train for an epoch and predict all images, each to its end; print seconds and the largest memory of each."""
    data, runs = folder / f"images_{number}", folder / "runs"
    make_images(data, number)
    train = [
        "train",
        f"data.root={data}",
        f"output={runs}",
        "model=student",
        "data.image_size=32",
        "trainer.max_epochs=1",
    ]
    time_whole("train", train, folder)
    (run,) = runs.glob("*/*/model.onnx")
    time_whole("predict", ["predict", str(data), f"run={run.parent}", f"output={folder / 'rows.csv'}"], folder)


def time_whole(name: str, words: list[str], folder: Path) -> None:
    """Run a command to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [PROGRAM, *words],
        env={**os.environ, "CLASSIFIER_TRAINING_CACHE": str(folder / "cache")}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    print(f"{name}: {seconds:.0f} s, at most {usage.ru_maxrss / 1024:.0f} MiB, exit code {code}", flush=True)


def main() -> None:
    """Run the benchmark that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="measurements; for images, starts after the first")
    parser.add_argument("--images", type=int, help="time train on so many images instead")
    parser.add_argument("--earlier", type=Path, help="a checkout of an earlier version, with its .venv")
    parser.add_argument("--folder", type=Path, help="where the images are made, or were; else a temporary folder")
    parser.add_argument("--whole", action="store_true", help="train and predict the images to the end, once")
    chosen = parser.parse_args()
    if chosen.images is None:
        time_commands(chosen.repeats)
        return
    with tempfile.TemporaryDirectory() as temporary:
        if chosen.whole:
            run_whole(chosen.folder or Path(temporary), chosen.images)
            return
        time_data(chosen.folder or Path(temporary), chosen.images, chosen.repeats, chosen.earlier)


if __name__ == "__main__":
    main()
