"""What the tests of this folder say about a run: how to train it, and what must be the same after it was killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CLOCKS = {"epoch_seconds", "images_per_second", "peak_memory_mb"}


def words(pictures: Path, output: Path, *more: str) -> list[str]:
    """Train a small network with dropout, mirroring, an average and a schedule, and save after every step."""
    return [
        "train", f"data.root={pictures}", f"output={output}", "model=student", "model.dropout=0.2", "model.width=0.65",
        "data.image_size=16", "data.batch_size=8", "trainer.max_epochs=5", "trainer.accelerator=cpu",
        "trainer.precision=32", "trainer.compile=false", "transforms.hflip=0.5", "callbacks=[checkpoint,ema]",
        "callbacks.checkpoint.every_seconds=0", "callbacks.checkpoint.every_minutes=0", "data.store=off", *more,
    ]  # fmt: skip


def folder_in(output: Path) -> Path:
    """The one run below a folder."""
    (found,) = output.glob("*/*/config.yaml")
    return found.parent


def exact(value: object) -> object:
    """Make nested checkpoint values comparable bit by bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {str(key): exact(item) for key, item in value.items() if str(key) not in (*CLOCKS, "train_seconds")}
    if isinstance(value, (list, tuple)):
        return [exact(item) for item in value]
    return value


def outcome(run: Path) -> dict[str, Any]:
    """All that a run ends with: weights, averages, optimizer, schedule, metrics, history, best weights, result."""
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    parts = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "callbacks")
    ended = {name: exact(last[name]) for name in parts if name in last}
    return {
        **ended,
        "step": (last["epoch"], last["global_step"]),
        "best": exact(best),
        "result": {**json.loads((run / "result.json").read_text()), "seconds": None},
        "columns": (run / "metrics.csv").read_text().splitlines()[0],
    }


def differences(first: dict[str, Any], second: dict[str, Any]) -> Sequence[str]:
    """Names of the parts that are not the same to the bit."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def litter(run: Path) -> list[Path]:
    """Files that a killed writer left half done."""
    return list(run.rglob("*.tmp"))
