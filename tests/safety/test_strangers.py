"""Nothing that is read can run code, and what is damaged is named."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.conf.resume import change_values, saved_values
from classifier_training.conf.validate import build_arguments, build_node
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.data.store.shards import read_entries
from classifier_training.export.bundle import read_info
from classifier_training.inference.predictor import Predictor
from classifier_training.models.weights import load_weights_file, trained_state
from classifier_training.training.checkpoint_files import AtomicCheckpointIO, find_newest, read_checkpoint, resume_from

SEED = 20_261_121

TRAIN = entry("verb", "train")


@pytest.fixture(autouse=True)
def loosest_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine may have set that makes torch read pickles where nobody says otherwise."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path, how: int = 0) -> None:
        self.path = path
        self.how = how

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        text = str(self.path)
        ways: list[tuple[Any, tuple[Any, ...]]] = [
            (Path.touch, (Path(text),)),
            (exec, (f"open({text!r}, 'w').close()",)),
            (eval, (f"open({text!r}, 'w')",)),
            (open, (text, "w")),
            (__import__("os").system, (f"touch {text}",)),
        ]
        return ways[self.how % len(ways)]


def pickles(canary: Path) -> dict[str, bytes]:
    """Files that make the canary when they are unpickled by whoever opens them."""
    found = {}
    for how in range(5):
        for protocol in (2, 4):
            found[f"bare pickle {how}, protocol {protocol}"] = pickle.dumps(
                {"state_dict": {"w": Canary(canary, how)}}, protocol=protocol
            )
        buffer = io.BytesIO()
        torch.save({"state_dict": {"w": torch.ones(1)}, "payload": Canary(canary, how)}, buffer)
        found[f"zip {how}"] = buffer.getvalue()
        buffer = io.BytesIO()
        torch.save({"state_dict": Canary(canary, how)}, buffer, _use_new_zipfile_serialization=False)
        found[f"legacy {how}"] = buffer.getvalue()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Canary(canary))
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    found["legacy tar"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([Canary(canary)], dtype=object))
    found["npz"] = buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, np.array([Canary(canary)], dtype=object))
    found["npy"] = buffer.getvalue()
    for name in ("archive/data.pkl", "data.pkl", "archive/constants.pkl"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as packed:
            packed.writestr(name, pickle.dumps(Canary(canary)))
            packed.writestr(f"{name.rpartition('/')[0] or 'archive'}/version", "3\n")
        found[f"hand-made zip {name}"] = buffer.getvalue()
    return found


def yamls(canary: Path) -> dict[str, str]:
    """Settings that make the canary in a loader that is not safe."""
    return {
        "apply": f"data: !!python/object/apply:os.system ['touch {canary}']\n",
        "new": f"data: !!python/object/new:subprocess.Popen [['touch', '{canary}']]\n",
        "name": "data: !!python/name:os.system\n",
        "module": "data: !!python/module:os\n",
        "object": "data: !!python/object:pathlib.Path {}\n",
        "tuple apply": f"!!python/object/apply:builtins.exec [\"open('{canary}', 'w')\"]\n",
    }


def readers() -> dict[str, Callable[[Path], object]]:
    """Every way in for weights."""

    def resume(path: Path) -> object:
        folder = path.parent / "run/checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "last.ckpt").write_bytes(path.read_bytes())
        return find_newest(RunDir(folder.parent), at_epoch_end=False)

    def entries(path: Path) -> object:
        (path.parent / "000000-abc.entries").write_bytes(path.read_bytes())
        try:
            return read_entries(path.parent, ["000000-abc"])
        except (ValueError, EOFError, OSError) as error:
            raise UserError(str(error), "", "") from error

    return {
        "checkpoint": read_checkpoint,
        "weights": lambda path: load_weights_file(torch.nn.Linear(1, 1), str(path), head=()),
        "trained": trained_state,
        "resume": resume,
        "lightning": lambda path: AtomicCheckpointIO().load_checkpoint(path, weights_only=False),
        "store": entries,
    }


@pytest.mark.parametrize("way", sorted(readers()))
def test_malicious_weights_are_refused_and_nothing_in_them_runs(way: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for number, (name, content) in enumerate(pickles(canary).items()):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(content)
        with pytest.raises(UserError):
            readers()[way](path)
        assert not canary.exists(), name


def test_malicious_safetensors_names_and_yaml_are_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "a.safetensors"
    for content in list(pickles(canary).values())[:8]:
        path.write_bytes(content)
        with pytest.raises(UserError):
            trained_state(path)
    for name, text in yamls(canary).items():
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml"):
            saved_values(tmp_path / "config.yaml")
        (tmp_path / "conf/experiment").mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf/experiment/evil.yaml").write_text(f"# @package _global_\n{text}")
        with pytest.raises(UserError):
            compose(TRAIN, ["experiment=evil"])
        assert not canary.exists(), name


def test_hyperparameters_in_a_checkpoint_name_nothing_to_build(tmp_path: Path) -> None:
    every: tuple[dict[str, Any], ...] = (
        {"hyper_parameters": {"_class_path": "os.system"}, "hparams_name": "x"},
        {"hyper_parameters": {"_target_": "os.system"}, "hparams_type": "builtins.exec"},
        {"hyper_parameters": {"_instantiator": "os.system"}},
        {"_instantiator": "pytorch_lightning.cli.instantiate_module"},
    )
    for number, tricks in enumerate(every):
        path = tmp_path / f"{number}.ckpt"
        torch.save({"state_dict": {"network.w": torch.ones(1)}, **tricks}, path)
        assert trained_state(path).keys() == {"w"}


HOSTILE_TARGETS = (
    "os.system", "builtins.exec", "builtins.eval", "subprocess.Popen", "subprocess.run", "pathlib.Path.touch",
    "importlib.import_module", "shutil.rmtree", "torch.load", "pickle.loads",
)  # fmt: skip


@pytest.mark.parametrize(
    "target", [*HOSTILE_TARGETS[:2], *(pytest.param(one, marks=pytest.mark.nightly) for one in HOSTILE_TARGETS[2:])]
)
def test_a_target_is_neither_imported_nor_called(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    import hydra.utils
    from hydra._internal.instantiate import _instantiate2

    for name in ("instantiate", "call", "get_method", "get_class", "get_object"):
        monkeypatch.setattr(hydra.utils, name, lambda *a, **k: called.append("hydra"))
    monkeypatch.setattr(_instantiate2, "_resolve_target", lambda *a, **k: called.append("resolve"))
    # Through words, a file of settings, and Hydra's own hooks.
    (tmp_path / "conf/experiment").mkdir(parents=True)
    for text in (
        f"model:\n  _target_: {target}\n",
        f"callbacks:\n  x:\n    _target_: {target}\n",
        f"hydra:\n  callbacks:\n    x:\n      _target_: {target}\n",
    ):
        (tmp_path / "conf/experiment/evil.yaml").write_text(f"# @package _global_\n{text}")
        with pytest.raises(UserError):
            compose(TRAIN, ["experiment=evil"])
    with pytest.raises(UserError):
        compose(TRAIN, [f"+model._target_={target}"])
    # Through the configuration that a run keeps.
    saved = {"data": {"type": "auto"}, "model": {"type": "resnet18", "_target_": target}}
    with pytest.raises(UserError, match="_target_"):
        build_arguments(TRAIN, change_values(saved, []))
    with pytest.raises(UserError):
        build_node("data", {"type": target}, "data")
    # Through a bundle.
    (tmp_path / "model_info.json").write_text(json.dumps({"_target_": target, "class_names": [{"_target_": target}]}))
    with pytest.raises(UserError):
        read_info(RunDir(tmp_path))
    assert called == []


def test_a_saved_configuration_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    saved = {"name": "${oc.env:SECRET}", "model": {"type": "x", "width": 1}, "data": {"root": "${name}"}}
    changed = change_values(saved, ["data.root=/moved"])
    assert changed["name"] == "${oc.env:SECRET}"
    assert changed["data"]["root"] == "/moved"
    assert "hunter2" not in str(changed)


def damaged(draw: random.Random, content: bytes, other: bytes, number: int) -> bytes:
    """Return a spoilt copy of a checkpoint: cut, flipped, empty, or another model's."""
    kind = number % 4
    if kind == 0:
        return content[: draw.randrange(1, len(content))]
    if kind == 1:
        spoilt = bytearray(content)
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        return bytes(spoilt)
    if kind == 2:
        return b"" if number % 8 == 2 else bytes(draw.randrange(256) for _ in range(64))
    return other


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.nightly)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    io_plugin = AtomicCheckpointIO()
    run = RunDir(tmp_path)

    def state(step: int) -> dict[str, Any]:
        weights = {"network.w": torch.randn(40, generator=torch.Generator().manual_seed(step))}
        return {"state_dict": weights, "global_step": step, "epoch": step}

    for step in (1, 2):
        io_plugin.save_checkpoint(state(step), run.last_checkpoint)
    io_plugin.save_checkpoint(state(2), run.best_checkpoint)
    buffer = io.BytesIO()
    torch.save({"state_dict": {"network.v": torch.ones(3)}, "global_step": 9, "epoch": 9}, buffer)
    content, listed = run.last_checkpoint.read_bytes(), (tmp_path / "checkpoints/manifest.json").read_text()
    best = run.best_checkpoint.read_bytes()
    draw = random.Random(SEED)
    for number in range(count):
        run.last_checkpoint.write_bytes(damaged(draw, content, buffer.getvalue(), number))
        run.best_checkpoint.write_bytes(damaged(draw, best, buffer.getvalue(), number))
        (tmp_path / "checkpoints/manifest.json").write_text(listed)
        for path in (run.last_checkpoint, run.best_checkpoint):
            with pytest.raises(UserError, match=path.name):
                read_checkpoint(path)
            with pytest.raises(UserError, match=path.name):
                trained_state(path)
        caplog.clear()
        found = find_newest(run, at_epoch_end=False)
        assert found is not None
        assert (found.path, found.entry.step) == (run.previous_checkpoint, 1)
        assert "last.ckpt: damaged" in caplog.text


def test_the_newest_checkpoint_is_found_by_its_step_not_by_its_time(tmp_path: Path) -> None:
    import os

    run = RunDir(tmp_path)
    for step, path in ((10, run.last_checkpoint), (12, run.step_checkpoint), (14, run.step_checkpoint)):
        loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}
        epoch = 0 if path == run.last_checkpoint else 1
        state = {"state_dict": {}, "global_step": step, "epoch": epoch, "loops": loops}
        AtomicCheckpointIO().save_checkpoint(state, path)
    os.utime(run.step_checkpoint, (0, 0))
    found = find_newest(run, at_epoch_end=False)
    assert found is not None
    assert (found.path, found.entry.step, found.entry.is_mid_epoch) == (run.step_checkpoint, 14, True)
    # With other settings an epoch is gone through anew, and its middle is no place to go back to.
    found = find_newest(run, at_epoch_end=True)
    assert found is not None
    assert (found.path, found.entry.step) == (run.last_checkpoint, 10)
    # Whoever only looks changes nothing.
    assert run.step_checkpoint.exists()
    resume_from(run, found, is_trained=False)
    assert not run.step_checkpoint.exists()
    assert find_newest(run, at_epoch_end=False) == dataclasses.replace(found, newer=())


def test_a_run_with_no_whole_checkpoint_is_told_so(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert find_newest(run, at_epoch_end=False) is None
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 1, "epoch": 0}, run.last_checkpoint)
    run.last_checkpoint.write_bytes(b"PK")
    with pytest.raises(UserError, match="none of its 1 checkpoints is whole"):
        find_newest(run, at_epoch_end=False)


def test_a_kill_between_the_first_checkpoint_and_its_line_begins_the_run_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    state = {"state_dict": {}, "global_step": 7, "epoch": 3}
    AtomicCheckpointIO().save_checkpoint({**state, "score": 0.5}, run.best_checkpoint)
    listed = (tmp_path / "checkpoints/manifest.json").read_text()
    AtomicCheckpointIO().save_checkpoint(state, run.last_checkpoint)
    (tmp_path / "checkpoints/manifest.json").write_text(listed)
    assert find_newest(run, at_epoch_end=False) is None
    assert not run.last_checkpoint.exists()


def test_a_damaged_manifest_is_named_and_the_files_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir(tmp_path)
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 7, "epoch": 3}, run.last_checkpoint)
    manifest = tmp_path / "checkpoints/manifest.json"
    for text in ("", "{", "[]", '{"checkpoints": [{"name": 1}]}', '{"checkpoints": 3}', "null"):
        manifest.write_text(text)
        found = find_newest(run, at_epoch_end=False)
        assert found is not None
        assert found.entry.step == 7
        assert "manifest.json: damaged" in caplog.text
        caplog.clear()
        resume_from(run, found, is_trained=False)
        assert yaml.safe_load(manifest.read_text())["checkpoints"][0]["step"] == 7


def test_a_pickle_beside_a_bundle_is_never_looked_at(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "model.onnx").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(UserError):
        Predictor(tmp_path / "model.onnx")
    assert not canary.exists()
