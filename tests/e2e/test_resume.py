"""A run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import SMALL, draw_picture
from tests.server import Ended, Warm

from classifier_training.core.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_runs")

SETTINGS = (
    *SMALL,
    "trainer.max_epochs=4",
    "callbacks=[checkpoint,ema,early_stopping]",
    "callbacks.checkpoint.every_seconds=0",
    "model.dropout=0.3",
    "transforms.hflip=0.5",
    # Of runs that are planned to be long, a trial with a compiled network would come first.
    "trainer.compile=false",
)


def folder_in(root: Path) -> Path:
    (found,) = root.glob("*/*/config.yaml")
    return found.parent


def session(pid: int) -> set[int]:
    """The processes of the session that a run leads."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == pid:
            found.add(int(path.parent.name))
    return found


def wait_for_rows(number: int, output: Path, has_ended: Callable[[], bool]) -> None:
    """Wait until metrics.csv of the run below a folder has rows of so many epochs, or the process has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not has_ended():
        files = list(output.glob("*/*/metrics.csv"))
        if files and len(files[0].read_text().splitlines()) > number:
            return
        time.sleep(0.005)


def exact(value: object) -> object:
    """Make nested checkpoint values comparable bit by bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {str(key): exact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(item) for item in value]
    return value


def timeless(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    clocks = {"epoch_seconds", "images_per_second", "peak_memory_mb"}
    return [{name: value for name, value in row.items() if name not in clocks} for row in rows]


@pytest.mark.usefixtures("quick_runs")
def test_a_killed_run_resumes_bit_for_bit(
    command: Callable[..., Ended], forked_commands: Warm, split_folder: Path, tmp_path: Path
) -> None:
    words = ["train", f"data.root={split_folder}", *SETTINGS]
    whole = command(*words, f"output={tmp_path}/whole")
    assert whole.code == 0, whole.err

    cut = tmp_path / "cut"
    pid = forked_commands.start([*words, f"output={cut}"], cwd=tmp_path)
    wait_for_rows(2, cut, lambda: forked_commands.has_ended(pid))
    os.kill(pid, signal.SIGKILL)
    forked_commands.wait(pid)
    resumed = command("train", f"resume={folder_in(cut)}")
    assert resumed.code == 0, resumed.err

    first = torch.load(folder_in(tmp_path / "whole") / "checkpoints/last.ckpt", weights_only=True)
    second = torch.load(folder_in(cut) / "checkpoints/last.ckpt", weights_only=True)
    rows = [state["callbacks"]["EpochRecorder"].pop("rows") for state in (first, second)]
    for state in (first, second):
        del state["callbacks"]["EpochRecorder"]["train_seconds"]
    assert timeless(rows[0]) == timeless(rows[1])
    assert len(rows[0]) == 4
    for part in (
        "state_dict",
        "current_model_state",
        "averaging_state",
        "optimizer_states",
        "lr_schedulers",
        "callbacks",
    ):
        assert exact(first[part]) == exact(second[part]), part
    assert first["global_step"] == second["global_step"]

    bests = [folder_in(root) / "checkpoints/best.ckpt" for root in (tmp_path / "whole", cut)]
    kept = [torch.load(path, weights_only=True) for path in bests]
    assert exact(kept[0]) == exact(kept[1])
    assert whole.out.splitlines()[1] == resumed.out.splitlines()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_words_and_leaves_no_process(
    forked_commands: Warm, split_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = [*SETTINGS, "trainer.max_epochs=5000", "callbacks=default", "callbacks.early_stopping=null"]
    # The last epoch is written at the signal, however long ago the last write was due.
    words[words.index("callbacks.checkpoint.every_seconds=0")] = "callbacks.checkpoint.every_seconds=1000"
    pid = forked_commands.start(["train", f"data.root={split_folder}", *words], cwd=tmp_path)
    wait_for_rows(3, tmp_path / "outputs", lambda: forked_commands.has_ended(pid))
    assert len(session(pid)) > 1, "nothing is drawn"
    os.kill(pid, number)
    ended = forked_commands.wait(pid)
    assert session(pid) == set()
    assert ended.code == 128 + number
    run = folder_in(tmp_path / "outputs")
    assert ended.err.splitlines()[-2:] == [
        f"interrupted ({number.name})",
        f"  to do:    classifier-training train resume={run.relative_to(tmp_path)}",
    ]
    assert "Traceback" not in ended.err
    rows = (run / "metrics.csv").read_text().splitlines()[1:]
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert 0 <= len(rows) - (saved["epoch"] + 1) <= 1
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["epoch"] < len(rows)


@pytest.mark.slow
def test_a_painter_goes_with_its_killed_parent(split_folder: Path, tmp_path: Path) -> None:
    words = [*SETTINGS, "trainer.max_epochs=5000", "callbacks=default", "callbacks.early_stopping=null"]
    # Not forked, so that the painter is a process of its own from the start, as it is for a user.
    script = Path(sys.executable).with_name("classifier-training")
    process = subprocess.Popen([script, "train", f"data.root={split_folder}", *words], stderr=subprocess.PIPE)
    wait_for_rows(2, tmp_path / "outputs", lambda: process.poll() is not None)
    children = [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert children
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a process of a killed run lives on"
        time.sleep(0.1)


@pytest.mark.usefixtures("quick_runs")
def test_a_finished_run_goes_on_with_its_own_splits(
    unsplit_folder: Path,
    train_here: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    words = [f"data.root={unsplit_folder.name}", *SETTINGS, "trainer.max_epochs=2", "trainer.max_time=60"]
    run = train_here(words).absolute()
    manifest = (run / "splits.csv").read_bytes()
    for colour in ("blue", "red"):
        draw_picture(unsplit_folder / colour / "000.png", (9, 9, 9), seed=0)
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match=r"trainer\.max_epochs=1: the run has 2 epochs behind it"):
        train_here([f"resume={run}", "trainer.max_epochs=1"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*ckpt_path")
        train_here([f"resume={run}", "trainer.max_epochs=3", "trainer.max_time=null"])
    assert (run / "splits.csv").read_bytes() == manifest
    assert "2 samples added after the run began" in caplog.text
    assert len((run / "metrics.csv").read_text().splitlines()) == 4
    assert (run / "result.json").is_file()
    assert not (run / "model_info.json").exists()
    with pytest.raises(UserError, match="no unfinished run"):
        train_here(["resume=latest", f"output={run.parents[1]}"])
    (unsplit_folder / "red/03.png").unlink()
    with pytest.raises(UserError, match=r"missing: red/03\.png"):
        train_here([f"resume={run}"])
