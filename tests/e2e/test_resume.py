"""A run that was killed goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tests.conftest import SMALL, Finished

SETTINGS = (
    *SMALL,
    "trainer.max_epochs=4",
    "callbacks=[checkpoint,ema,early_stopping]",
    "callbacks.checkpoint.every_seconds=0",
    "model.dropout=0.3",
    "transforms.hflip=0.5",
)


def folder_in(root: Path) -> Path:
    (found,) = root.glob("*/*/config.yaml")
    return found.parent


def kill_after_epochs(number: int, words: list[str], metrics: Callable[[], list[Path]]) -> None:
    """Start a command and kill it without a chance to clean up once metrics.csv has so many rows."""
    script = Path(sys.executable).with_name("classifier-training")
    process = subprocess.Popen([script, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        files = metrics()
        if files and len(files[0].read_text().splitlines()) > number:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


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


def test_a_killed_run_resumes_bit_for_bit(command: Callable[..., Finished], split_folder: Path, tmp_path: Path) -> None:
    words = ["train", f"data.root={split_folder}", *SETTINGS]
    whole = command(*words, f"output={tmp_path}/whole")
    assert whole.code == 0, whole.err

    cut = tmp_path / "cut"
    kill_after_epochs(2, [*words, f"output={cut}"], lambda: list(cut.glob("*/*/metrics.csv")))
    resumed = command("train", f"resume={folder_in(cut)}")
    assert resumed.code == 0, resumed.err

    first = torch.load(folder_in(tmp_path / "whole") / "checkpoints/last.ckpt", weights_only=True)
    second = torch.load(folder_in(cut) / "checkpoints/last.ckpt", weights_only=True)
    rows = [state["callbacks"]["EpochRecorder"].pop("rows") for state in (first, second)]
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


def test_only_values_change_on_resume(command: Callable[..., Finished], split_folder: Path, tmp_path: Path) -> None:
    done = command("train", f"data.root={split_folder}", *SETTINGS)
    assert done.code == 0, done.err
    run = folder_in(tmp_path / "outputs")
    refused = command("train", f"resume={run}", "model=resnet18")
    assert refused.code == 2
    assert "another model" in refused.err
