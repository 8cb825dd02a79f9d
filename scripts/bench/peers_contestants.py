"""Who takes part in `peers.py`: the images all train on, how each is started, and how its result is read."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BATCH_SIZE = 64
SPLIT_SEED, HELD_OUT = 0, 360
PEERS_PYTHON, PEERS = "3.11", ("fastai==2.8.12",)
LEFT_OUT = "timm 1.0.31 is left out: neither its wheel nor its source archive on PyPI has its train.py."
OURS, FASTAI = "classifier-training", "fastai"
FASTAI_SCRIPT = Path(__file__).with_name("peers_fastai.py")


@dataclass(frozen=True)
class Score:
    """What one run says of itself: accuracies, seconds in its epochs, device and precision, versions."""

    val_accuracy: float
    test_balanced_accuracy: float
    fit_seconds: float
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """What all train on; `flips` says whether a mirror image is still of its class, which each is told in its words."""

    name: str
    image_size: int
    epochs: int
    flips: bool


TASKS = {
    "digits": Task("scikit-learn's digits", 64, 4, flips=False),
    "longtail": Task("a long tail of CIFAR-10, 25:1", 32, 10, flips=True),
}


@dataclass(frozen=True)
class Contestant:
    """A program to time: its command for a seed and an empty folder, and what reads its result from that folder."""

    name: str
    command: Callable[[int, Path], list[str]]
    read: Callable[[Path], Score]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive of one folder with train, val and test; returns that folder."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (found,) = folder.iterdir()
    return found


def write_digits(folder: Path, image_size: int) -> None:
    """Write the digits as {train,val,test}/CLASS/*.png, 8 x 8 pixels blown up to the benchmark's size."""
    digits = load_digits()
    rows = np.arange(len(digits.target))
    train, rest = train_test_split(rows, test_size=2 * HELD_OUT, stratify=digits.target, random_state=SPLIT_SEED)
    val, test = train_test_split(rest, test_size=HELD_OUT, stratify=digits.target[rest], random_state=SPLIT_SEED)
    for split, chosen in (("train", train), ("val", val), ("test", test)):
        for row in chosen:
            path = folder / split / str(digits.target[row]) / f"{row:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((digits.images[row] * (255 / 16)).round().astype(np.uint8))
            picture.resize((image_size, image_size), Image.Resampling.BILINEAR).save(path)


def make_environment(folder: Path) -> Path:
    """Make the peers' virtual environment unless it is there; returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", PEERS_PYTHON, str(folder)], check=True)
    install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    subprocess.run([*install, *PEERS], check=True)
    return python


def ours(task: Task, data: Path, overrides: Sequence[str]) -> Contestant:
    """classifier-training with its defaults, plots, averaged weights, test score and ONNX file included."""
    program = Path(sys.executable).with_name("classifier-training")
    if not program.exists():
        sys.exit(f"{program} is missing: run this with the Python that classifier-training is installed for")

    def command(seed: int, folder: Path) -> list[str]:
        settings = [f"data.root={data}", f"data.image_size={task.image_size}", f"data.batch_size={BATCH_SIZE}"]
        settings += [f"trainer.max_epochs={task.epochs}", f"seed={seed}", f"output={folder}"]
        settings += ["transforms.hflip=0.5"] if task.flips else []
        settings += ["model=resnet18", "model.pretrained=false", *overrides]
        return [str(program), "train", *settings]

    return Contestant(OURS, command, read_ours)


def read_ours(folder: Path) -> Score:
    """Read the run folder; validation accuracy is that of the epoch whose weights were kept and tested."""
    report_path = next(folder.glob("*/*/evaluation/classification_report.json"))
    run = report_path.parent.parent
    report = json.loads(report_path.read_text(encoding="utf-8"))
    best = json.loads((run / "model_info.json").read_text(encoding="utf-8"))["training_info"]["epoch"]
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        epochs = list(csv.DictReader(file))
    said, lines = ": device: ", (run / "train.log").read_text(encoding="utf-8").splitlines()
    return Score(
        val_accuracy=next(float(row["val/acc_top1"]) for row in epochs if int(row["epoch"]) == best),
        test_balanced_accuracy=report["metrics"]["balanced_accuracy"]["value"],
        fit_seconds=sum(float(row["epoch_seconds"]) for row in epochs),
        device=next((line.partition(said)[2] for line in lines if said in line), "unknown"),
        versions=json.loads((run / "versions.json").read_text(encoding="utf-8")),
    )


def fastai(task: Task, data: Path, python: Path, workers: int | None) -> Contestant:
    """Fastai's vision_learner and fit_one_cycle; `workers` is None for fastai's own number of loader processes."""

    def command(seed: int, folder: Path) -> list[str]:  # noqa: ARG001 - it writes nothing but its answer
        options = ["--data", str(data), "--image-size", str(task.image_size)]
        options += ["--batch-size", str(BATCH_SIZE), "--epochs", str(task.epochs), "--seed", str(seed)]
        options += ["--flips"] if task.flips else []
        options += [] if workers is None else ["--workers", str(workers)]
        return [str(python), str(FASTAI_SCRIPT), *options]

    return Contestant(FASTAI, command, read_fastai)


def read_fastai(folder: Path) -> Score:
    """Read the last line that the child script printed."""
    answer = json.loads((folder / "stdout.txt").read_text(encoding="utf-8").splitlines()[-1])
    return Score(
        val_accuracy=answer["val_accuracy"],
        test_balanced_accuracy=answer["test_balanced_accuracy"],
        fit_seconds=answer["seconds"]["fit"],
        device=answer["device"],
        versions=answer["versions"],
    )
