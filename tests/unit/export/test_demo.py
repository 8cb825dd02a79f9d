from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.export import sharing
from classifier_training.export.sharing import ORT_FILES, ORT_PACKAGE, ORT_VERSION, find_ort, write_demo

CLIENT = Path(__file__).parents[3] / "clients" / "js"


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No packages in the checkout, an empty cache, no npm."""
    monkeypatch.setattr(sharing, "CLIENT_MODULES", tmp_path / "node_modules")
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    run_dir.pipeline.write_bytes(b"pipeline")
    return run_dir


def put_ort(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ORT_FILES:
        (folder / name).write_text(name)
    return folder


def put_npm(folder: Path, script: str) -> None:
    npm = folder / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def test_the_page_and_all_that_it_loads_are_written(run_dir: RunDir, tmp_path: Path) -> None:
    write_demo(run_dir, ort=put_ort(tmp_path / "dist"))
    written = {str(path.relative_to(run_dir.path)) for path in run_dir.path.rglob("*") if path.is_file()}
    assert written == {"pipeline.onnx", "demo.html", "demo/classifier.js", *(f"demo/{name}" for name in ORT_FILES)}
    page = run_dir.demo.read_text(encoding="utf-8")
    assert "./demo/classifier.js" in page
    assert f"./demo/{ORT_FILES[0]}" in page
    assert set(re.findall(r"\w*://[^\s\"']*", page)) == {"http://127.0.0.1:8000/demo.html"}


def test_the_page_runs_the_client_that_the_project_ships() -> None:
    shipped = Path(sharing.__file__).parent / "page" / "classifier.js"
    assert shipped.read_bytes() == (CLIENT / "classifier.js").read_bytes()


def test_the_client_and_the_page_want_the_same_onnxruntime() -> None:
    assert json.loads((CLIENT / "package.json").read_text())["dependencies"] == {ORT_PACKAGE: f"^{ORT_VERSION}"}


def test_the_packages_of_the_checkout_are_taken_before_the_cache(tmp_path: Path) -> None:
    cached = put_ort(tmp_path / "cache" / f"{ORT_PACKAGE}-{ORT_VERSION}")
    assert find_ort() == cached
    installed = put_ort(tmp_path / "node_modules" / ORT_PACKAGE / "dist")
    assert find_ort() == installed


def test_npm_is_asked_once(tmp_path: Path) -> None:
    put_ort(tmp_path / "package" / "dist")
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    asked = tmp_path / "asked"
    put_npm(tmp_path, f'echo "$1 $2" >> {asked}; /bin/cp {tmp_path}/packed.tgz "$4/{ORT_PACKAGE}-{ORT_VERSION}.tgz"')
    folder = find_ort()
    assert [(folder / name).read_text() for name in ORT_FILES] == list(ORT_FILES)
    assert find_ort() == folder
    assert asked.read_text() == f"pack {ORT_PACKAGE}@{ORT_VERSION}\n"


def test_without_npm_the_error_says_what_to_install(run_dir: RunDir) -> None:
    with pytest.raises(UserError, match="npm is not installed") as caught:
        write_demo(run_dir)
    assert f"npm install {ORT_PACKAGE}@{ORT_VERSION}" in caught.value.remedy
    assert not run_dir.demo.exists()


def test_what_npm_says_is_passed_on(tmp_path: Path) -> None:
    put_npm(tmp_path, "echo 'npm error network is unreachable' >&2; echo 'npm error A complete log: x.log' >&2; exit 1")
    with pytest.raises(UserError, match=r"npm failed \(npm error network is unreachable\)"):
        find_ort()


def test_a_folder_without_the_files_is_named(run_dir: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no {ORT_FILES[0]}"):
        write_demo(run_dir, ort=tmp_path)


def test_a_run_without_a_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pipeline\.onnx: is missing"):
        write_demo(RunDir(tmp_path), ort=put_ort(tmp_path / "dist"))
