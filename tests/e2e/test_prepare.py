"""`prepare` as a user types it, and the training that follows."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL, draw_picture
from tests.server import Ended

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"CLASSIFIER_TRAINING_CACHE": str(tmp_path / "cache")}


def test_what_is_prepared_is_trained_from_and_changes_nothing(
    command: Command, split_folder: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    words = ["prepare", f"data.root={split_folder}", "data.image_size=32"]
    done = command(*words, env=env)
    assert done.code == 0, done.err
    assert "36 images: 36 decoded now, 0 stored before, 0 unreadable" in done.out
    manifest = Path(re.findall(r"^splits: (.*)$", done.out, re.MULTILINE)[0])
    with manifest.open() as file:
        assert len(list(csv.DictReader(file))) == 36

    draw_picture(split_folder / "train/red/00.png", (1, 2, 3), seed=0, size=(41, 30))
    done = command(*words, f"output={tmp_path}/own.csv", "verify=true", env=env)
    assert "36 images: 1 decoded now, 35 stored before, 0 unreadable" in done.out
    assert (tmp_path / "own.csv").is_file()

    weights = []
    for store in ("auto", "off"):
        words = ["train", f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint]", "trainer.max_epochs=2"]
        done = command(*words, f"data.store={store}", f"output={tmp_path}/{store}", env=env)
        assert done.code == 0, done.err
        (best,) = (tmp_path / store).glob("*/*/checkpoints/last.ckpt")
        log = best.parents[1] / "train.log"
        assert ("store: 18 of 18 images (train)" in log.read_text()) == (store == "auto")
        weights.append(torch.load(best, weights_only=True)["state_dict"])
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


@pytest.mark.nightly
def test_the_first_epoch_writes_what_the_next_run_reads(
    command: Command, split_folder: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    words = ["train", f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint]", "imbalance=none"]
    for name, more in (("first", []), ("second", ["data.num_workers=1"])):
        done = command(*words, f"output={tmp_path / name}", *more, env=env)
        assert done.code == 0, done.err
    first, second = (next((tmp_path / name).glob("*/*/train.log")).read_text() for name in ("first", "second"))
    assert "store: 0 of 18 images (train)" in first
    assert "store: 18 of 18 images (train)" in second
    assert "store: 18 of 18 images (val, test)" in second


@pytest.mark.nightly
def test_files_that_cannot_be_read_are_counted(command: Command, split_folder: Path, env: dict[str, str]) -> None:
    broken = split_folder / "val/green/02.png"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    done = command("prepare", f"data.root={split_folder}", "data.image_size=32", env=env)
    assert done.code == 2
    assert "02.png" in done.err
    done = command("prepare", f"data.root={split_folder}", "data.image_size=32", "data.on_error=skip", env=env)
    assert done.code == 3
    assert "1 unreadable" in done.out
    assert "02.png" in done.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.store=off"], "data.store=off has no effect on prepare"),
        (["data.store=on", "data.store_gb=1e-9"], "data.store=on: not enough disk space for the train pixels"),
        (["data.store=tape"], "data.store=tape"),
    ],
)
def test_a_wrong_wish_ends_in_three_lines(
    command: Command, split_folder: Path, env: dict[str, str], words: list[str], line: str
) -> None:
    done = command("prepare", f"data.root={split_folder}", "data.image_size=32", *words, env=env)
    assert done.code == 2
    assert done.err.splitlines()[-3].startswith(f"error: {line}")
