"""Between a run's last epoch and its result.json: kills, full disks, and what is there when it is resumed."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_class_folders
from tests.safety.runs import CLOCKS, differences, folder_in, litter, outcome
from tests.server import Ended, Warm

pytestmark = pytest.mark.timeout(3600)

SEED = 20_261_125
EPOCHS = 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, split, with enough validation images to calibrate on."""
    root = tmp_path_factory.mktemp("photos")
    make_class_folders(root / "train", {"blue": 10, "green": 8, "red": 6})
    make_class_folders(root / "val", {"blue": 10, "green": 10, "red": 10})
    make_class_folders(root / "test", {"blue": 4, "green": 4, "red": 4})
    return root


def words(photos: Path, output: Path, *more: str) -> list[str]:
    """Train a small network with everything that a run leaves."""
    return [
        "train", f"data.root={photos}", f"output={output}", "model=student", "model.dropout=0.2", "model.width=0.65",
        "data.image_size=32", "data.batch_size=8", f"trainer.max_epochs={EPOCHS}", "trainer.accelerator=cpu",
        "trainer.precision=32", "trainer.compile=false", "data.store=off", "recipe=none", *more,
    ]  # fmt: skip


def files(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in CLOCKS} for row in csv.DictReader(file)]


def left(run: Path) -> dict[str, Any]:
    """All that a finished run leaves and that is not measured by a clock."""
    info = json.loads((run / "model_info.json").read_text())
    del info["training_info"]["config"]["output"], info["training_info"]["config"]["resume"]
    return {
        **outcome(run),
        "files": files(run),
        "rows": rows(run),
        "weights": (run / "model.safetensors").read_bytes(),
        "predictions": (run / "evaluation/predictions.csv").read_bytes(),
        "report": json.loads((run / "evaluation/classification_report.json").read_text()),
        "calibration": json.loads((run / "evaluation/calibration.json").read_text()),
        "golden": json.loads((run / "golden/golden.json").read_text()),
        "info": info,
    }


MARKS = (
    "metrics.csv", "checkpoints/last.ckpt", "model.safetensors", "model.onnx", "training_history.json",
    "evaluation/classification_report.json", "report.html", "MODEL_CARD.md", "pipeline.onnx", "golden/golden.json",
    "result.json",
)  # fmt: skip
"""Files by which the end of a run is followed, in their order; the first is there before it."""


@pytest.fixture(scope="module")
def whole(
    drawing: Warm, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, float]]:
    """What a run that nothing happens to leaves, and when each mark of its end was there."""
    folder = tmp_path_factory.mktemp("whole")
    pid = drawing.start(words(photos, folder), cwd=folder)
    wait_for_last_row(drawing, pid, folder)
    run, times = folder_in(folder), dict[str, float]()
    while not drawing.has_ended(pid):
        times |= {mark: time.monotonic() for mark in MARKS if mark not in times and (run / mark).exists()}
        time.sleep(0.002)
    ended = drawing.wait(pid)
    assert ended.code == 0, ended.err
    return left(run), times


def wait_for_last_row(warm: Warm, pid: int, output: Path) -> None:
    """Wait until the last epoch is in metrics.csv."""
    while not warm.has_ended(pid):
        if any(len(path.read_text().splitlines()) > EPOCHS for path in output.glob("*/*/metrics.csv")):
            return
        time.sleep(0.002)


def resume(warm: Warm, output: Path) -> Ended:
    return warm.run(["train", f"resume={folder_in(output)}"], cwd=output)


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.nightly)])
def test_a_run_killed_at_its_end_is_resumed_to_the_folder_of_one_that_was_not(
    drawing: Warm, photos: Path, tmp_path: Path, whole: tuple[dict[str, Any], dict[str, float]], count: int
) -> None:
    draw = random.Random(SEED)
    parts = list(itertools.pairwise(MARKS))
    for number in range(count):
        output = tmp_path / str(number)
        output.mkdir()
        pid = drawing.start(words(photos, output), cwd=output)
        wait_for_last_row(drawing, pid, output)
        started, run = time.monotonic(), folder_in(output)
        # At a moment within each part of the end, by the length that it had, so that few kills see all of it.
        mark, following = parts[number * len(parts) // count]
        while not (run / mark).exists() and not drawing.has_ended(pid):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, max(whole[1][following] - whole[1][mark], 0.0)))
        moment, had_ended = time.monotonic() - started, drawing.has_ended(pid)
        os.kill(pid, signal.SIGKILL)
        drawing.wait(pid)
        found = files(run)
        was_finished = "result.json" in found
        if not was_finished:
            ended = resume(drawing, output)
            assert ended.code == 0, f"killed after {moment:.3f} s: {ended.err}"
        apart = differences(left(run), whole[0])
        print(  # noqa: T201 - the table of the kills, with -s
            f"{number + 1:2d} | {moment:6.3f} s | {', '.join(name for name in MARKS[1:] if name in found) or 'none'} | "
            f"{'had ended' if had_ended else 'finished' if was_finished else 'resumed'}: "
            f"{'the same' if not apart else ', '.join(apart)}"
        )
        assert apart == [], (
            f"seed {SEED}, kill {number}, after {moment:.3f} s: {left(run)['files'] ^ whole[0]['files']}"
        )
        assert litter(run) == []


@pytest.mark.parametrize(
    ("part", "withheld"),
    [
        ("/pipeline.onnx", ["pipeline.onnx"]),
        ("/last.ckpt", ["checkpoints/last.ckpt"]),
        pytest.param("/model.onnx", ["model.onnx", "pipeline.onnx"], marks=pytest.mark.nightly),
        pytest.param("/golden/", ["golden"], marks=pytest.mark.nightly),
        pytest.param("/report.html", ["report.html"], marks=pytest.mark.nightly),
    ],
)
def test_a_file_that_the_disk_has_no_room_for_costs_no_other(
    warm: Warm, photos: Path, tmp_path: Path, part: str, withheld: list[str]
) -> None:
    # Temporary files have a dot before the name, and the name of the folder before that.
    fault = {
        "FAULT_ROOT": str(tmp_path), "FAULT_PART": part.replace("/", "/.", 1) if part[-1] != "/" else part,
        "FAULT_AT": "1", "FAULT_ERRNO": str(errno.ENOSPC), "FAULT_STAYS": "1",
    }  # fmt: skip
    ended = warm.run(words(photos, tmp_path), cwd=tmp_path, env=fault)
    assert ended.code == 1, ended
    assert "Traceback" not in ended.err
    assert os.strerror(errno.ENOSPC) in ended.err
    assert "test: balanced accuracy" in ended.out
    run = folder_in(tmp_path)
    result = json.loads((run / "result.json").read_text())
    assert list(result["failures"]) == withheld
    assert not any((run / name).exists() for name in withheld)
    assert litter(run) == []
    again = resume(warm, tmp_path)
    assert again.code == 0, again.err
    assert json.loads((run / "result.json").read_text())["failures"] == {}
    assert all((run / name).exists() for name in withheld)


def test_a_disk_that_is_full_from_the_end_of_training_on_leaves_a_run_that_is_resumed(
    warm: Warm, photos: Path, tmp_path: Path
) -> None:
    fault = {
        "FAULT_ROOT": str(tmp_path), "FAULT_PART": "/outputs/", "FAULT_KIND": "write", "FAULT_AT": "1",
        "FAULT_ERRNO": str(errno.ENOSPC), "FAULT_STAYS": "1", "FAULT_AFTER": str(tmp_path / "full"),
    }  # fmt: skip
    output = tmp_path / "outputs"
    pid = warm.start(words(photos, output), cwd=tmp_path, env=fault)
    wait_for_last_row(warm, pid, output)
    run = folder_in(output)
    while '"ends_training": true' not in (run / "checkpoints/manifest.json").read_text() and not warm.has_ended(pid):
        time.sleep(0.002)
    (tmp_path / "full").touch()
    ended = warm.wait(pid)
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    assert f"result.json cannot be written ({os.strerror(errno.ENOSPC)})" in ended.err
    assert f"resume={run}" in ended.err
    assert "test: balanced accuracy" in ended.err
    assert not (run / "result.json").exists()
    again = resume(warm, output)
    assert again.code == 0, again.err
    assert json.loads((run / "result.json").read_text())["failures"] == {}
    assert len(rows(run)) == EPOCHS


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_a_signal_at_the_end_says_how_to_have_the_rest_done(
    warm: Warm, photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    pid = warm.start(words(photos, tmp_path), cwd=tmp_path)
    while not list(tmp_path.glob("*/*/model.safetensors")) and not warm.has_ended(pid):
        time.sleep(0.002)
    os.kill(pid, number)
    ended = warm.wait(pid)
    run = folder_in(tmp_path)
    assert ended.code == 128 + number, ended
    assert ended.err.splitlines()[-2:] == [
        f"interrupted ({number.name})",
        f"  to do:    classifier-training train resume={run}   (it trains no more)",
    ]
    assert not (run / "result.json").exists()
    again = resume(warm, tmp_path)
    assert again.code == 0, again.err
    assert "its training has ended" in again.err
    assert len(rows(run)) == EPOCHS


@pytest.mark.parametrize("free", [65_536, 20_000_000])
def test_a_run_that_the_disk_has_no_room_for_is_refused_before_anything_is_trained(
    warm: Warm, photos: Path, tmp_path: Path, free: int
) -> None:
    fault = {"FAULT_ROOT": str(tmp_path), "FAULT_FREE": str(free)}
    ended = warm.run(words(photos, tmp_path / "out"), cwd=tmp_path, env=fault)
    assert ended.code == 2, ended
    shown = f"{free / 1e6:,.1f} MB of the disk are free, but the run needs up to"
    (line,) = (line for line in ended.err.splitlines() if shown in line)
    assert "for checkpoints, exports and report (weights of " in line
    assert "output=/some/folder" in ended.err
    assert "Traceback" not in ended.err
    assert not list(tmp_path.glob("out/*/*")), "no folder of a run that never was"
    enough = {**fault, "FAULT_FREE": str(2 * 10**9)}
    ended = warm.run(words(photos, tmp_path / "out", "trainer.max_epochs=1"), cwd=tmp_path, env=enough)
    assert ended.code == 0, ended.err
    run = folder_in(tmp_path / "out")
    (line,) = (line for line in (run / "train.log").read_text().splitlines() if " disk: " in line)
    assert "2.0 GB free" in line
    # A run that is made longer is refused as it is, too.
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}
    longer = ["train", f"resume={run}", "trainer.max_epochs=2"]
    refused = warm.run(longer, cwd=tmp_path, env={**fault, "FAULT_FREE": "65536"})
    assert refused.code == 2
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.lock"} == before


def test_a_run_killed_while_its_store_is_filled_is_the_latest_and_begins_again(
    warm: Warm, photos: Path, tmp_path: Path
) -> None:
    plan = [word for word in words(photos, tmp_path / "out", "data.store=on") if word != "data.store=off"]
    store = {"CLASSIFIER_TRAINING_CACHE": str(tmp_path / "cache")}
    fault = {"FAULT_ROOT": str(tmp_path / "cache/store"), "FAULT_AT": "3", "FAULT_ERRNO": "0"}
    (tmp_path / "cache").mkdir()
    older = tmp_path / "out/2020-01-01/10-00-00"
    older.mkdir(parents=True)
    (older / "config.yaml").write_text("seed: 1\n")
    os.utime(older / "config.yaml", (1, 1))
    ended = warm.run(plan, cwd=tmp_path, env={**store, **fault})
    assert ended.code == -signal.SIGKILL, ended
    assert "epoch 1" not in ended.err
    again = warm.run(["train", "resume=latest", f"output={tmp_path}/out"], cwd=tmp_path, env=store)
    assert again.code == 0, again.err
    assert "at the beginning: nothing was saved" in again.err
    (result,) = tmp_path.glob("out/*/*/result.json")
    assert result.parent != older
