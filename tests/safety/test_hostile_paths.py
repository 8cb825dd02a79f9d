"""No name that is read leads out of its folder: what the whole process opens is watched while such names are read."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.core.files import contained, escapes
from classifier_training.core.run_dir import RunDir
from classifier_training.data.formats.jsonl import JSONL
from classifier_training.data.formats.listing import FileList
from classifier_training.data.formats.table import Table
from classifier_training.data.splitting.manifest import read_manifest
from classifier_training.export.session import open_session
from classifier_training.export.sharing import ORT_FILES, _download

_watched: list[tuple[str, list[str]]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], (str, bytes)):
        secret, opened = _watched[-1]
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith((secret, "/dev/zero", "/proc/self/environ", "/etc/passwd")):
            opened.append(path)


sys.addaudithook(_watch)


@contextmanager
def nothing_opened_in(folder: Path) -> Iterator[None]:
    """Fail when a file below a folder, or one of the system's, is opened."""
    opened: list[str] = []
    _watched.append((os.path.realpath(folder), opened))
    try:
        yield
    finally:
        _watched.pop()
    assert opened == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder, links in it that lead out, and a secret beside it."""
    folder = tmp_path / "data"
    for name in ("a", "b"):
        draw_picture(folder / f"x/{name}.png", (1, 2, 3), seed=0)
    draw_picture(tmp_path / "secret/s.png", (9, 9, 9), seed=1)
    (folder / "out.png").symlink_to(tmp_path / "secret/s.png")
    (folder / "far").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to("..")
    (folder / "null.png").symlink_to("/dev/null")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    return folder


def hostile(root: Path) -> list[str]:
    """Names that lead out, or to what is no file."""
    secret = root.parent / "secret/s.png"
    return [
        "../secret/s.png", "x/../../secret/s.png", "./../secret/s.png", "x/./../../secret/s.png", "..", "../", "x/..",
        "../../../../../../etc/passwd", str(secret), "/etc/passwd", "/dev/zero", "/proc/self/environ", f"//{secret}",
        "out.png", "far/s.png", "up/secret/s.png", "x/../out.png", "null.png", "zero.png", "loop.png", "a\0.png",
        "\0", "x/a.png\0../secret/s.png", f"{root}/../secret/s.png", f"{root}/x/../../secret/s.png", "~/s.png",
        "file:///etc/passwd", "../data/../secret/s.png", f"{root}x/a.png", "far/../far/s.png", "", ".", "/",
    ]  # fmt: skip


def forms(root: Path) -> dict[str, Callable[[str], object]]:
    """Each way in for a name, given the name."""

    def jsonl(name: str) -> object:
        (root / "rows.jsonl").write_text(json.dumps({"image": name, "suffix": "x"}) + "\n")
        return JSONL(root=str(root)).read()

    def table(name: str) -> object:
        with (root / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label"], [name, "x"]])
        return Table(root=str(root)).read()

    def listed(name: str) -> object:
        (root / "list.txt").write_text(f"{name}\n")
        return FileList(root=str(root)).read()

    def manifest(name: str) -> object:
        path = root.parent / "splits.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label", "split", "group"], [name, "x", "train", ""]])
        return [contained(root, row.path, where="splits.csv") for row in read_manifest(path)]

    def registry(name: str) -> object:
        if not escapes(name):
            raise UserError("its name is one", "", "")
        return RunDir.create(root / "runs", name=name or "/", category=None)

    def onnx(name: str) -> object:
        path = root / "model.onnx"
        write_external(path, name)
        return open_session(path)

    return {
        "jsonl": jsonl, "csv": table, "list": listed, "manifest": manifest, "registry": registry, "onnx": onnx,
    }  # fmt: skip


def write_external(path: Path, location: str) -> None:
    """Write a network whose weights are said to be in another file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path, load_external_data=False).graph.initializer[0].external_data


@pytest.mark.parametrize("form", ["jsonl", "csv", "list", "manifest", "registry", "onnx"])
def test_hostile_names_are_refused_and_nothing_outside_is_opened(form: str, root: Path) -> None:
    read = forms(root)[form]
    for name in hostile(root):
        if form in ("csv", "list", "manifest") and ("\0" in name or (form == "list" and not name.strip())):
            continue  # no such file can be written in that form
        with nothing_opened_in(root.parent / "secret"), pytest.raises((UserError, csv.Error)):
            read(name)


def test_data_beside_an_onnx_file_is_read(root: Path) -> None:
    (root / "weights.bin").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    write_external(root / "model.onnx", "weights.bin")
    (answer,) = open_session(root / "model.onnx").run(None, {"input": np.ones((1, 4), np.float32)})
    assert answer.tolist() == [[1, 1, 1, 1]]


def test_data_hidden_deep_in_an_onnx_file_is_found(root: Path) -> None:
    import onnx
    from onnx import helper

    write_external(root / "inner.onnx", "../secret/s.png")
    inner = onnx.load(root / "inner.onnx", load_external_data=False).graph
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([branch], "g", [], []))
    (root / "model.onnx").write_bytes(model.SerializeToString())
    with nothing_opened_in(root.parent / "secret"), pytest.raises(UserError, match="leads out of its folder"):
        open_session(root / "model.onnx")


@pytest.mark.parametrize("target", ["../../secret", "/etc/passwd"])
def test_a_link_in_an_archive_is_not_followed(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        for name in ORT_FILES:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            packed.addfile(member)
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    (tmp_path / "evil.tgz").write_bytes(buffer.getvalue())
    npm.write_text(f'#!/bin/sh\ncp {tmp_path}/evil.tgz "$4/evil.tgz"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="a link in it"):
        _download(tmp_path / "kept")
    assert list(tmp_path.glob("kept/*")) == []


@pytest.mark.parametrize("name", ["model_info.json", "model.onnx", "checkpoints/best.ckpt", "model.safetensors"])
def test_a_pipe_or_device_in_a_bundle_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    from classifier_training.export.bundle import read_info
    from classifier_training.inference.model import load_model
    from classifier_training.models.weights import trained_state

    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    read: dict[str, Callable[[], object]] = {
        ".json": lambda: read_info(RunDir(tmp_path)),
        ".onnx": lambda: load_model(path, accelerator="cpu"),
    }
    for is_pipe in (True, False):
        if is_pipe:
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(UserError, match="device, pipe or socket"):
            read.get(path.suffix, lambda: trained_state(path))()
        path.unlink()
