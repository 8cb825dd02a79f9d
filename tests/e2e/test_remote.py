"""Data on an S3 server are trained on, predicted, analyzed and prepared as a local folder is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from object_store import SECRET, Faults, Proxy, S3Server
from tests.conftest import COLOURS, SMALL, draw_picture, make_class_folders, read_csv

from classifier_training.core.run_dir import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server import Ended

pytestmark = pytest.mark.usefixtures("quick_runs")

ENDING = (*SMALL, "seed=3")


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What every request to the server passes."""
    made = Proxy(s3.port)
    for name, value in {**s3.environment, "AWS_ENDPOINT_URL": made.url}.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


def the_run(ended: Ended, output: Path) -> Path:
    assert ended.code == 0, ended.err
    return next(path.parent for path in output.rglob("config.yaml"))


def test_a_remote_folder_is_trained_on_as_its_local_copy(
    s3: S3Server, proxy: Proxy, split_folder: Path, command: Callable[..., Ended], tmp_path: Path
) -> None:
    (split_folder / "corrections.csv").write_text("path,old,action,new\ntrain/blue/00.png,blue,drop,\n")
    url = f"s3://sets/{tmp_path.name}"
    s3.upload(split_folder, "sets", tmp_path.name)
    local = the_run(command("train", f"data.root={split_folder}", *ENDING, "output=local"), tmp_path / "local")
    env = {"CLASSIFIER_TRAINING_CACHE": str(tmp_path / "cache")}
    first = command("train", f"data.root={url}", *ENDING, "output=remote", env=env)
    remote = the_run(first, tmp_path / "remote")
    assert sha256(remote / "model.safetensors") == sha256(local / "model.safetensors")
    assert (remote / "splits.csv").read_text() == (local / "splits.csv").read_text()
    assert "warning" not in first.err
    num_files = sum(path.is_file() for path in split_folder.rglob("*"))
    assert proxy.counts["get"] <= num_files + 2, "each file is fetched once"
    proxy.counts.clear()
    again = command("train", f"data.root={url}", *ENDING, "output=again", env=env)
    assert sha256(the_run(again, tmp_path / "again") / "model.safetensors") == sha256(local / "model.safetensors")
    assert proxy.counts["list"] <= 3
    assert proxy.counts["get"] == proxy.counts["head"] == 0, "a second start fetches nothing"
    for path in remote.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
    evaluated = command("evaluate", f"run={remote}", env=env)
    assert evaluated.code == 0, evaluated.err
    resumed = command("train", f"resume={remote}", "trainer.max_epochs=2", env=env)
    assert resumed.code == 0, resumed.err
    assert proxy.counts["get"] == proxy.counts["head"] == 0


@pytest.mark.nightly
def test_predict_analyze_and_prepare_read_remote_folders(
    s3: S3Server, proxy: Proxy, unsplit_folder: Path, command: Callable[..., Ended], tmp_path: Path
) -> None:
    rows = [f"{path.relative_to(unsplit_folder)},{path.parent.name}" for path in sorted(unsplit_folder.rglob("*.png"))]
    url = f"s3://sets/{tmp_path.name}"
    (unsplit_folder / "labels.csv").write_text("\n".join(["path,label", *rows, ""]))
    s3.upload(unsplit_folder, "sets", tmp_path.name)
    run = the_run(command("train", f"data.root={url}/labels.csv", *SMALL, "output=runs"), tmp_path / "runs")
    remote = command("predict", f"run={run}", f"source={url}", "output=remote.csv")
    local = command("predict", f"run={run}", f"source={unsplit_folder}", "output=local.csv")
    assert remote.code == local.code == 0, remote.err
    assert [{**row, "path": ""} for row in read_csv(tmp_path / "remote.csv")] == [
        {**row, "path": ""} for row in read_csv(tmp_path / "local.csv")
    ]
    analyzed = command("analyze", url, "output=page")
    assert analyzed.code == 0, analyzed.err
    assert "30" in analyzed.out
    prepared = command("prepare", f"{url}/labels.csv", "output=copy")
    assert prepared.code == 0, prepared.err
    assert proxy.counts["head"] == 0


@pytest.mark.slow
def test_faults_change_no_weight(
    s3: S3Server, proxy: Proxy, split_folder: Path, command: Callable[..., Ended], tmp_path: Path
) -> None:
    s3.upload(split_folder, "sets", tmp_path.name)
    local = the_run(command("train", f"data.root={split_folder}", *ENDING, "output=local"), tmp_path / "local")
    proxy.faults = Faults(busy=0.1, cut=0.1, short=0.1)
    url = f"data.root=s3://sets/{tmp_path.name}"
    ended = command("train", url, *ENDING, "data.cache_gb=0", "data.store=off", "output=remote")
    assert sha256(the_run(ended, tmp_path / "remote") / "model.safetensors") == sha256(local / "model.safetensors")
    assert proxy.made["busy"]
    assert proxy.made["cut"] + proxy.made["short"]


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s3://sets/nothing-here", "there is no file below it"),
        ("s3://no-such-bucket/set", "404 NoSuchBucket"),
        ("s3://key:secret@sets/set", "a password or a signature"),
    ],
)
def test_what_cannot_be_read_is_said_in_three_lines(
    s3: S3Server, proxy: Proxy, root: str, words: str, command: Callable[..., Ended], tmp_path: Path
) -> None:
    s3.make_bucket("sets")
    ended = command("train", f"data.root={root}", *SMALL)
    assert ended.code == 2
    assert words in ended.err
    assert len(ended.err.strip().splitlines()) == 3
    assert "secret" not in ended.err
    assert not list(tmp_path.rglob("config.yaml"))


def test_several_remote_folders_are_merged(
    s3: S3Server, proxy: Proxy, command: Callable[..., Ended], tmp_path: Path
) -> None:
    for number, name in enumerate(("one", "two")):
        folder = make_class_folders(tmp_path / name, {"blue": 6, "green": 6})
        draw_picture(folder / "red/x.png", COLOURS["red"], seed=number)
        draw_picture(folder / "red/y.png", COLOURS["red"], seed=10 + number)
        s3.upload(folder, "sets", f"{tmp_path.name}/{name}")
    roots = ",".join(f"s3://sets/{tmp_path.name}/{name}" for name in ("one", "two"))
    run = the_run(command("train", f"data.root=[{roots}]", *ENDING, "output=runs"), tmp_path / "runs")
    paths = [row["path"] for row in read_csv(run / "splits.csv")]
    assert len(paths) == 28
    assert {path.split("/")[0] for path in paths} == {"one", "two"}
