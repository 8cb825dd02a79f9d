"""When a run is saved, and averaged weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.optim.swa_utils import AveragedModel

from classifier_training.core.errors import UserError
from classifier_training.core.manifest import read_manifest, remove_checkpoints
from classifier_training.core.run_dir import RunDir
from classifier_training.training.checkpoint_files import AtomicCheckpointIO, read_checkpoint
from classifier_training.training.checkpoints import ExponentialMovingAverage, RunCheckpoints, warmed_decay


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("canary"),)  # type: ignore[return-value]


def test_a_checkpoint_is_read_as_written_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, path)
    found = AtomicCheckpointIO().load_checkpoint(path)
    assert found["epoch"] == 3
    assert {item.name for item in path.parent.iterdir()} == {"manifest.json", "last.ckpt"}
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "epoch": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "bad": lambda: None}, path)
    assert read_checkpoint(path)["epoch"] == 1
    assert {item.name for item in tmp_path.iterdir()} == {"manifest.json", "last.ckpt"}


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "payload": Payload()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    assert not Path("canary").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.ckpt"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_missing_files_and_files_without_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save({"epoch": 1}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="holds no weights"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_removed_checkpoint_leaves_no_line_and_the_others_stay_whole(tmp_path: Path) -> None:
    for name in ("best.ckpt", "last.ckpt", "last.ckpt"):
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.rand(2)}}, tmp_path / name)
    remove_checkpoints(tmp_path, ["previous.ckpt", "step.ckpt", "last.ckpt"])
    assert {item.name for item in tmp_path.iterdir()} == {"manifest.json", "best.ckpt"}
    assert [entry.name for entry in read_manifest(tmp_path) or ()] == ["best.ckpt"]
    assert read_checkpoint(tmp_path / "best.ckpt")["state_dict"]["w"].shape == (2,)


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_the_linear_probe_gives_way_to_what_is_clearly_better_alone(tmp_path: Path, mode: str, sign: int) -> None:
    def make() -> RunCheckpoints:
        return RunCheckpoints(
            RunDir(tmp_path), monitor="val/figure", mode=mode, every_seconds=0, every_minutes=1, keep_last=True,
            metadata={},
        )  # fmt: skip

    (tmp_path / "checkpoints").mkdir()
    probed = make()
    probed.begin_with(nn.Linear(2, 2), sign * 0.9, margin=0.02)  # type: ignore[arg-type]
    resumed = make()
    resumed.load_state_dict(probed.state_dict())
    for checkpoints in (probed, resumed):
        assert [checkpoints._is_best(sign * score) for score in (0.9, 0.915, 0.925)] == [False, False, True]
    # Among epochs the higher score is better, by however little.
    probed.best_score, probed.best_epoch = sign * 0.925, 0
    assert probed._is_best(sign * 0.926)
    assert not probed._is_best(sign * 0.925)


def test_the_decay_warms_up_to_its_value() -> None:
    assert warmed_decay(0.999, 0) == pytest.approx(0.1)
    assert warmed_decay(0.999, 90) == pytest.approx(0.91)
    assert warmed_decay(0.999, 10**6) == 0.999


def test_the_average_starts_at_the_first_update_and_follows_the_recursion() -> None:
    ema = ExponentialMovingAverage(0.9)
    module = nn.BatchNorm1d(1)
    average = AveragedModel(module, multi_avg_fn=ema._update, use_buffers=True)
    expected = None
    for step in range(12):
        value = float(step**2)
        nn.init.constant_(module.weight, value)
        assert module.running_mean is not None
        assert module.num_batches_tracked is not None
        module.running_mean.fill_(value)
        module.num_batches_tracked.fill_(step)
        average.update_parameters(module)
        decay = warmed_decay(0.9, step)
        expected = value if expected is None else decay * expected + (1 - decay) * value
    state = average.module.state_dict()
    assert state["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert state["running_mean"].item() == pytest.approx(expected, rel=1e-5)
    assert state["num_batches_tracked"].item() == 11


def test_the_averaged_state_has_the_names_of_the_module() -> None:
    class Shell(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(2, 1)

    shell, ema = Shell(), ExponentialMovingAverage(0.5)
    ema.setup(None, shell, "fit")  # type: ignore[arg-type]
    assert ema.averaged_state().keys() == shell.state_dict().keys()
    assert torch.equal(ema.averaged_state()["network.weight"], shell.network.weight)
