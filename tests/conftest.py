"""What all tests share: tiny images, a cache and a working folder of their own, and the command line."""

from __future__ import annotations

import csv
import gc
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from object_store import S3Server, find_weed
from PIL import Image
from tests import quick
from tests.server import Ended, Warm

import classifier_training.conf.catalogue  # noqa: F401 - fills the register, as every entry point does
from classifier_training.core import runtime
from classifier_training.evaluation import drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# One thread a test process: two of them share a small machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The programs of this environment, for tests that start them by name, whether it was activated or not.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

# A job that a shell started in the background ignores Ctrl-C, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.skips", "tests.chromium"]

# Imports and tests allocate many objects and free few: collecting less often takes a tenth off the suite.
gc.set_threshold(50_000, 20, 100)
COLOURS = {"blue": (30, 60, 200), "green": (40, 160, 60), "red": (200, 40, 40)}

NETWORK = ("model=timm", "model.name=test_resnet", "model.pretrained=false")
"""0.4 million parameters, with random weights: a user's data would ask for trained ones, which a hub has."""

SETTINGS = ("data.image_size=32", "data.batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu")

SMALL = (*NETWORK, *SETTINGS)
"""A small network that is trained for little, for tests that are about something else."""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written outside the test's folder, and no hub is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("WANDB_API_KEY", "UV_RUN_RECURSION_DEPTH", "PIXI_PROJECT_MANIFEST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a test logs to the screen, as `ct.train` does, is not the next one's."""
    loggers = [logging.getLogger(name) for name in runtime.LOGGED]
    before = [(logger, logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, propagate, level, handlers in before:
        logger.propagate, logger.handlers = propagate, handlers
        logger.setLevel(level)


@pytest.fixture(autouse=True, scope="session")
def quick_painters() -> None:
    """Start the processes that draw from one that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["matplotlib.pyplot", "classifier_training.evaluation.drawing"])
    drawing.get_context = lambda _: context  # type: ignore[assignment, attr-defined]


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than a tiny run, both here and in runs of `command`: see tests/quick.py."""
    quick.leave_out(monkeypatch.setattr)


@pytest.fixture(scope="module")
def quick_module() -> Iterator[None]:
    """The same for a whole file, the runs that its tests share among them."""
    with pytest.MonkeyPatch.context() as patch:
        quick.leave_out(patch.setattr)
        yield


@pytest.fixture
def drawn(quick_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw after all, in a file whose other tests do not."""
    quick.put_back(monkeypatch.setattr, figures=True)


@pytest.fixture
def exported(quick_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export with what users have after all, in a file whose other tests do not."""
    quick.put_back(monkeypatch.setattr, exporter=True)


@pytest.fixture(autouse=True, scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["CLASSIFIER_TRAINING_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")


def draw_picture(path: Path, colour: tuple[int, int, int], *, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    """Write a noisy image of one colour."""
    noise = np.random.default_rng(seed).integers(-25, 25, (size[1], size[0], 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_class_folders(folder: Path, counts: dict[str, int]) -> Path:
    """Write folder/CLASS/NN.png for each class."""
    # No image of one folder is another's copy: training would refuse them as splits.
    base = 10_000 * zlib.crc32(folder.name.encode())
    for offset, (name, count) in enumerate(counts.items()):
        for number in range(count):
            draw_picture(folder / name / f"{number:02d}.png", COLOURS[name], seed=base + 1000 * offset + number)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table that a run wrote: a row a line, by the names in its header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def split_folder(tmp_path: Path) -> Path:
    """An image folder that comes split: 8, 6 and 4 training images of three classes."""
    root = tmp_path / "images"
    make_class_folders(root / "train", {"blue": 8, "green": 6, "red": 4})
    make_class_folders(root / "val", {"blue": 3, "green": 3, "red": 3})
    make_class_folders(root / "test", {"blue": 3, "green": 3, "red": 3})
    return root


@pytest.fixture
def unsplit_folder(tmp_path: Path) -> Path:
    """An image folder without a split."""
    return make_class_folders(tmp_path / "unsplit", {"blue": 10, "green": 10, "red": 10})


@pytest.fixture
def jsonl_folder(tmp_path: Path) -> Path:
    """JSONL annotations in the form of jersey numbers, the empty label among them."""
    root = tmp_path / "jerseys"
    labels = {"": "blue", "7": "green", "10": "red"}
    for split, count in (("train", 6), ("valid", 2), ("test", 2)):
        rows = []
        for label, colour in labels.items():
            for number in range(count):
                name = f"{colour}_{number}.png"
                draw_picture(root / split / name, COLOURS[colour], seed=zlib.crc32(split.encode()) + number)
                rows.append({"image": name, "prefix": "number?", "suffix": label, "metadata": {"player": number}})
        (root / split / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    """Weights of the small network, as if it had been trained before."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    path = tmp_path / "tiny.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A library that makes writes fail, where there is a compiler for it."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    target = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", target, source, "-ldl"], check=True)
    return target


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server, whose bucket `public` anybody may read."""
    pytest.importorskip("obstore")
    if find_weed() is None:
        pytest.skip("SeaweedFS has wheels for Linux on x86-64 alone")
    server = S3Server(tmp_path_factory.mktemp("s3"), public=("public",))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def forked_commands(faults: Path | None) -> Iterator[Warm]:
    """Where command lines are forked from; what makes writes fail sleeps until a run's environment wakes it."""
    with Warm(faults) as server:
        yield server


@pytest.fixture
def command(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Ended]:
    """Run a command line as a user would, in the test's folder.

    In a process that has imported torch before, which would take longer than what most tests look at. What changes
    Python itself needs a process from the start.
    """

    def run(*words: str, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> Ended:
        if not any(name.startswith("PYTHON") for name in env or {}):
            warm: Warm = request.getfixturevalue("forked_commands")
            warm = warm.quick(figures=not quick.is_drawn(), exporter=not quick.is_exported())
            return warm.run(words, cwd=cwd, env=env)
        script = Path(sys.executable).with_name("classifier-training")
        done = subprocess.run(
            [script, *words], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def train_here() -> Callable[[Sequence[str]], Path]:
    """Run `train` inside this process; returns the run folder."""

    def run(overrides: Sequence[str]) -> Path:
        from classifier_training import cli  # noqa: F401 - fills the register
        from classifier_training.conf.compose import compose
        from classifier_training.core.register import entry

        verb = entry("verb", "train")
        result = verb.run(compose(verb, overrides))
        return Path(result.run_dir.path)

    return run
