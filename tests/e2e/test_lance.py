"""Lance sets from the command line: the same weights as from the folder they were written from, and their versions."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.conftest import COLOURS, SMALL, draw_picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server import Ended

pytest.importorskip("lance")

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(24):
        split, label = ("train", "train", "val", "test")[number % 4], ("blue", "red")[number // 4 % 2]
        draw_picture(tmp_path / "pictures" / split / label / f"{number}.png", COLOURS[label], seed=number)
    return tmp_path / "pictures"


def weights_of(folder: Path) -> str:
    (file,) = folder.rglob("model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
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


@pytest.mark.parametrize("part", ["/data/", "/_versions/"])
def test_a_killed_prepare_leaves_no_set(part: str, pictures: Path, tmp_path: Path, faults: Path | None) -> None:
    if faults is None:
        pytest.skip("no C compiler to make writes fail with")
    root = tmp_path / "set.lance"
    words = [sys.executable, "-m", "classifier_training", "prepare", str(pictures), f"output={root}"]
    fault = {"LD_PRELOAD": str(faults), "FAULT_ROOT": str(tmp_path), "FAULT_PART": part, "FAULT_AT": "1"}
    killed = subprocess.run(words, capture_output=True, env={**os.environ, **fault, "FAULT_ERRNO": "0"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((root / "_versions").glob("*.manifest"))
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.startswith(
        f"{root}: version 1 with"
    )
