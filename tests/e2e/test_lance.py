"""Lance sets from the command line: the same weights as from the folder they were written from, and their versions."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.conftest import COLOURS, SMALL, draw_picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Ended

pytest.importorskip("lance")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(24):
        split, label = ("train", "train", "val", "test")[number % 4], ("blue", "red")[number // 4 % 2]
        draw_picture(tmp_path / "pictures" / split / label / f"{number}.png", COLOURS[label], seed=number)
    return tmp_path / "pictures"


def weights_of(folder: Path) -> str:
    (file,) = folder.rglob("model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_set_trains_to_the_weights_of_its_folder_and_keeps_its_version(
    command: Callable[..., Ended], pictures: Path, tmp_path: Path
) -> None:
    root = tmp_path / "set.lance"
    done = command("prepare", str(pictures), f"output={root}")
    assert done.code == 0, done.err
    assert "version 1" in done.out
    settings = [*SMALL, "data.store=off", "trainer.compile=false"]
    found = {}
    for name, data, workers in (("files", pictures, 0), ("set", root, 0), ("workers", root, 2)):
        done = command("train", str(data), *settings, f"data.num_workers={workers}", f"output={tmp_path / name}")
        assert done.code == 0, done.err
        found[name] = weights_of(tmp_path / name)
    assert found["files"] == found["set"] == found["workers"]
    (config,) = (tmp_path / "set").rglob("config.yaml")
    assert yaml.safe_load(config.read_text())["data"]["version"] == 1
    label = next(path for path in (pictures / "train").iterdir()).name
    draw_picture(pictures / "train" / label / "more.png", (1, 2, 3), seed=99)
    assert "version 2" in command("prepare", str(pictures), f"output={root}").out
    done = command("train", str(root), "data.version=1", *settings, f"output={tmp_path / 'pinned'}")
    assert done.code == 0, done.err
    assert weights_of(tmp_path / "pinned") == found["set"]


def test_settings_of_pixels_are_refused(command: Callable[..., Ended], pictures: Path, tmp_path: Path) -> None:
    done = command("prepare", str(pictures), f"output={tmp_path / 'set.lance'}", "data.image_size=64")
    assert done.code == 2
    assert "data.image_size has no effect on a Lance set" in done.err


def test_a_killed_prepare_leaves_no_set(tmp_path: Path) -> None:
    images, root = tmp_path / "images", tmp_path / "set.lance"
    draw_picture(images / "train/a/0.png", (1, 2, 3), seed=0, size=(400, 400))
    content = (images / "train/a/0.png").read_bytes()
    for number in range(1500):
        (images / f"train/{'ab'[number % 2]}").mkdir(parents=True, exist_ok=True)
        (images / f"train/{'ab'[number % 2]}/{number}.png").write_bytes(content)
    words = [sys.executable, "-m", "classifier_training", "prepare", str(images), f"output={root}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while not list(root.rglob("*.lance")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (root / "_versions").exists()
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.startswith(
        f"{root}: version 1 with"
    )
