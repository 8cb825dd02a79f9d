from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier_training.core.errors import UserError
from classifier_training.core.manifest import read_manifest, remove_checkpoints
from classifier_training.training.checkpoint_files import AtomicCheckpointIO, read_checkpoint


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
