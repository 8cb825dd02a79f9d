from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.runs import make_run

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.registry.mlflow_cache import fetch_model, list_models
from classifier_training.registry.mlflow_models import (
    Holder,
    ModelReference,
    find_holder,
    move_alias,
    version_of,
    versions_of,
)
from classifier_training.registry.mlflow_server import Server, connect
from classifier_training.registry.runs import find_run

Publish = Callable[..., str]


@pytest.fixture
def server(mlflow_uri: str) -> Server:
    return connect(None, purpose="a test")


def do(verb: str, *words: str) -> str:
    found = entry("registry", verb)
    return str(found.run(compose(found, words)))


def runs(root: Path, *scores: float) -> list[Path]:
    """Finished runs of one name, in the folders of as many people."""
    made = [
        make_run(root / f"person{number}", "2026-01-02/10-00-00", name="rooms", score=score)
        for number, score in enumerate(scores)
    ]
    for number, run in enumerate(made):
        (run / "model.onnx").write_bytes(bytes([number]) * 1000)
    return made


def number_of(holder: Holder) -> int | None:
    return None if holder.version is None else int(holder.version.version)


def promote(run: Path, *words: str) -> str:
    output = run.parents[2]
    return do("promote", f"run={run}", "alias=production", f"output={output}", "publish=mlflow", *words)


def test_the_same_run_twice_is_the_same_version_and_another_file_makes_another(tmp_path: Path, server: Server) -> None:
    (run,) = runs(tmp_path, 0.5)
    words = (f"run={run}", f"output={run.parents[2]}")
    assert "rooms version 1" in do("publish", *words)
    assert "rooms version 1 (published before)" in do("publish", *words)
    assert len(versions_of(server, "rooms")) == 1
    (run / "model.onnx").write_bytes(b"trained longer")
    assert "rooms version 2" in do("publish", *words)
    first, second = versions_of(server, "rooms")
    assert first.run_id == second.run_id, "one run there"
    assert fetch_model("mlflow:rooms/1").joinpath("model.onnx").read_bytes() == b"\0" * 1000


def test_a_model_is_downloaded_once_and_checked_and_cannot_be_changed(tmp_path: Path, server: Server) -> None:
    (run,) = runs(tmp_path, 0.5)
    promote(run)
    folder = find_run("mlflow:rooms@production").path
    assert folder.is_relative_to(tmp_path / "cache")
    assert {path.name for path in folder.iterdir()} >= {"model.onnx", "model_info.json", "config.yaml"}
    assert sha256(folder) == versions_of(server, "rooms")[0].tags["sha256"]
    assert not any(path.stat().st_mode & 0o222 for path in (folder, *folder.iterdir()))
    kept = (folder / "model.onnx").stat().st_ino
    assert fetch_model("mlflow:rooms") == fetch_model("mlflow:rooms/1") == folder
    assert (folder / "model.onnx").stat().st_ino == kept, "not downloaded again"
    # A copy that is no longer what was published is replaced.
    (folder / "model.onnx").chmod(0o644)
    (folder / "model.onnx").write_bytes(b"other")
    assert (fetch_model("mlflow:rooms") / "model.onnx").read_bytes() == b"\0" * 1000


def test_files_that_were_changed_on_the_server_are_refused(tmp_path: Path, server: Server) -> None:
    (run,) = runs(tmp_path, 0.5)
    do("publish", f"run={run}", f"output={run.parents[2]}")
    (stored,) = [path for path in tmp_path.rglob("bundle-*/model.onnx") if "cache" not in path.parts]
    stored.write_bytes(b"other")
    with pytest.raises(UserError, match=r"the files at .* have the SHA-256"):
        fetch_model("mlflow:rooms/1")
    assert not list((tmp_path / "cache/mlflow").glob("*rooms*"))


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("mlflow:roms", "has no model roms", "run=mlflow:rooms"),
        ("mlflow:rooms/7", "rooms on .* has no version 7", "run=mlflow:rooms@production"),
        ("mlflow:rooms@staging", "rooms on .* has no alias staging", "run=mlflow:rooms@production"),
        ("mlflow:rooms@a/b", "no model of an MLflow server", "run=mlflow:rooms@production"),
        ("mlflow:foreign/1", "another program registered it", "registry publish RUN"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    text: str, message: str, remedy: str, tmp_path: Path, server: Server
) -> None:
    (run,) = runs(tmp_path, 0.5)
    promote(run)
    server.client.create_registered_model("foreign")
    server.client.create_model_version("foreign", "file:///nowhere")
    with pytest.raises(UserError, match=message) as caught:
        find_run(text)
    assert remedy in caught.value.remedy


def test_without_a_server_or_the_extra_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="no MLflow server is named"):
        find_run("mlflow:rooms")
    assert not list(tmp_path.iterdir()), "no database is made"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:TOPSECRET@127.0.0.1:9")
    with pytest.raises(UserError, match="does not answer") as caught:
        find_run("mlflow:rooms")
    assert "TOPSECRET" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="needs mlflow") as caught:
        find_run("mlflow:rooms")
    assert "--extra mlflow" in caught.value.remedy


def test_the_gate_compares_with_the_holder_of_the_team(tmp_path: Path, server: Server) -> None:
    good, bad, better = runs(tmp_path, 0.8, 0.7, 0.9)
    promote(good)
    with pytest.raises(CheckFailedError, match=r"0\.7000 against 0\.8000 of mlflow:rooms/1"):
        promote(bad)
    assert len(versions_of(server, "rooms")) == 1, "nothing was uploaded"
    assert "alias production, instead of version 1" in promote(better)
    assert "alias production as before" in promote(better)
    assert "instead of version 2" in promote(bad, "force=true")
    # Back to the version of before: the server alone knows of it.
    said = do("promote", "run=mlflow:rooms/2", "alias=production")
    assert "mlflow:rooms/2 is mlflow:rooms@production now" in said
    assert version_of(server, ModelReference.parse("mlflow:rooms@production")).version in (2, "2")
    listed = do("list", "output=mlflow:rooms").splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["mlflow:rooms/3", "-"], ["mlflow:rooms/2", "production"], ["mlflow:rooms/1", "-"],
    ]  # fmt: skip


def test_of_all_who_found_the_same_holder_one_takes_its_place(tmp_path: Path, server: Server) -> None:
    made = runs(tmp_path, *[0.5] * 6)
    for run in made:
        do("publish", f"run={run}", f"output={run.parents[2]}")
    versions = versions_of(server, "rooms")
    move_alias(server, versions[0], "production", find_holder(server, "rooms", "production"))
    before = find_holder(server, "rooms", "production")
    start = threading.Barrier(5)
    outcomes: dict[int, str] = {}

    def race(number: int) -> None:
        start.wait()
        try:
            move_alias(server, versions[number], "production", before)
        except CheckFailedError as error:
            outcomes[number] = error.came
        else:
            outcomes[number] = ""

    racers = [threading.Thread(target=race, args=(number,)) for number in range(1, 6)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    (winner,) = [number for number, told in outcomes.items() if not told]
    assert number_of(find_holder(server, "rooms", "production")) == winner + 1
    told = [words for words in outcomes.values() if words]
    assert len(told) == 4
    assert all(f"version {winner + 1} was promoted by" in words for words in told)


def test_an_alias_that_was_moved_by_hand_counts(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classifier_training.registry.mlflow_models.SETTLED_SECONDS", 0.1)
    low, high, middle = runs(tmp_path, 0.5, 0.9, 0.7)
    promote(low)
    promote(high)
    server.client.set_registered_model_alias("rooms", "production", "1")
    found = find_holder(server, "rooms", "production")
    assert (number_of(found), found.turn) == (1, 2)
    assert "instead of version 1" in promote(middle)


def test_a_run_without_an_export_is_refused(tmp_path: Path, mlflow_uri: str) -> None:
    run = make_run(tmp_path / "outputs", "2026-01-02/10-00-00", finished=False)
    with pytest.raises(UserError, match="has exported nothing"):
        do("publish", f"run={run}")
    assert RunDir(run).mlflow.exists() is False


def test_models_and_versions_are_listed_the_newest_first(server: Server) -> None:
    def listed(text: str, limit: int = 0) -> list[str]:
        return [row.split()[0] for row in list_models(text, limit=limit)[1:]]

    assert list_models("mlflow:")[0].endswith("has no model")
    for name in ("rooms", "dogs"):
        server.client.create_registered_model(name)
    for name in ("rooms", "dogs", "rooms"):
        server.client.create_model_version(name, "file:///none")
        time.sleep(0.01)
    assert listed("mlflow:") == ["mlflow:rooms/2", "mlflow:dogs/1"]
    assert listed("mlflow:", limit=1) == ["mlflow:rooms/2"]
    assert listed("mlflow:rooms") == listed("mlflow:rooms/1") == ["mlflow:rooms/2", "mlflow:rooms/1"]
    assert listed("mlflow:rooms", limit=1) == ["mlflow:rooms/2"]
