"""`predict launcher=ray` on clusters of two nodes: the predictions of one process, also after kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import S3Server
from tests.bundles import write_small_bundle
from tests.conftest import COLOURS, draw_picture

from classifier_training.core.storage.places import list_names, read_bytes

pytestmark = pytest.mark.nightly


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes with one core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("bundle")).path


def draw(folder: Path, number: int) -> Path:
    for row in range(number):
        draw_picture(folder / f"{row % 3}" / f"{row:04}.png", list(COLOURS.values())[row % 3], seed=row, size=(50, 40))
    (folder / "1" / "0001.png").write_bytes(b"no image")
    return folder


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "classifier_training", "predict", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*words: object) -> tuple[int, str, str]:
    running = start(*words)
    out, err = running.communicate(timeout=300)
    return running.returncode, out, err


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_predictions_are_those_of_one_process(run: Path, cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    images = draw(tmp_path / "images", 40)
    words = ["images", f"run={run}", "data.batch_size=4"]
    assert finish(*words, "output=local.jsonl")[0] == 3
    on_ray = [*words, "launcher=ray", f"launcher.address={cluster.address}"]
    code, out, err = finish(*on_ray, "output=parts/")
    assert code == 3, err
    assert "40 images, 1 error" in out
    assert "written to parts" in out
    parts = sorted((tmp_path / "parts").glob("part-*"))
    assert len(parts) == 10
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "local.jsonl").read_bytes()

    # What is there is not computed again, and what is gone is.
    parts[3].unlink()
    (tmp_path / "parts" / "_SUCCESS").unlink()
    before = {part: part.stat().st_mtime_ns for part in parts if part.exists()}
    code, out, err = finish(*on_ray, "output=parts/")
    assert code == 3, err
    assert "resuming after the 36 images" in err
    assert "40 images, 1 error" in out
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "local.jsonl").read_bytes()
    assert (tmp_path / "parts" / "_SUCCESS").exists()

    # Another job does not mix its predictions with these.
    code, _, err = finish(*on_ray, "output=parts/", "top_k=1")
    assert code == 2
    assert "other settings or images (top_k)" in err
    shutil.copy(images / "0" / "0000.png", images / "0" / "new.png")
    code, _, err = finish(*on_ray, "output=parts/")
    assert code == 2
    assert "other settings or images (source_sha256, images" in err
    (images / "0" / "new.png").unlink()

    # One file, from the same parts.
    code, out, err = finish(*on_ray, "output=merged.csv", "probabilities=true")
    assert code == 3, err
    assert finish(*words, "output=local.csv", "probabilities=true")[0] == 3
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
    assert not list(tmp_path.glob(".*parts*"))


def test_a_killed_node_and_a_killed_driver_lose_nothing_and_repeat_nothing(
    run: Path, cluster: Any, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1)
    draw(tmp_path / "images", 1200)
    words = ["images", f"run={run}", "data.batch_size=3", "quiet=true"]
    assert finish(*words, "output=local.jsonl")[0] == 3
    words += ["output=parts/", "launcher=ray", f"launcher.address={cluster.address}"]

    def parts() -> list[Path]:
        return sorted((tmp_path / "parts").glob("part-*"))

    running = start(*words)
    try:
        wait_for(lambda: len(parts()) > 40)
        cluster.remove_node(node, allow_graceful=False)
        wait_for(lambda: len(parts()) > 80)
        running.send_signal(signal.SIGKILL)
    finally:
        running.kill()
        running.communicate()
    before = {part: part.stat().st_mtime_ns for part in parts()}
    assert 80 < len(before) < 133, "the driver was not killed in the middle"
    code, out, err = finish(*words)
    assert code == 3, err
    assert "1,200 images, 1 error" in out
    again = [part for part, written in before.items() if part.stat().st_mtime_ns != written]
    assert not again
    assert b"".join(part.read_bytes() for part in parts()) == (tmp_path / "local.jsonl").read_bytes()
    assert not [name for name in os.listdir(tmp_path / "parts") if name.endswith(".tmp")]  # noqa: PTH208


def test_images_and_predictions_lie_in_a_store(
    s3: S3Server, run: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.upload(draw(tmp_path / "images", 12), "sets", f"{tmp_path.name}/images")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    words = [f"s3://sets/{tmp_path.name}/images", f"run={run}", "data.batch_size=2"]
    code, _, err = finish(*words, "output=local.jsonl")
    assert code == 3, err
    # The nodes were started without these variables.
    words += [
        "launcher=ray",
        f"launcher.address={cluster.address}",
        f"launcher.environment=[{','.join(s3.environment)}]",
    ]
    out = f"s3://sets/{tmp_path.name}/out"
    for output in (f"{out}/", f"{out}.jsonl", f"{out}/"):
        code, _, err = finish(*words, f"output={output}")
        assert code == 3, err
    assert "resuming after the 12 images" in err
    names = list_names(out)
    assert names[:2] == ["_SUCCESS", "_plan.json"]
    lines = b"".join(read_bytes(f"{out}/{name}") for name in names[2:])
    assert lines == read_bytes(f"{out}.jsonl") == (tmp_path / "local.jsonl").read_bytes()
    assert not list_names(f"{out}.jsonl.parts")
    code, _, err = finish(*words[:3], f"output={out}.jsonl")
    assert code == 2
    assert "predict on one machine writes to its disk" in err


def test_ctrl_c_says_how_to_resume(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    draw(tmp_path / "images", 600)
    words = ["images", f"run={run}", "data.batch_size=2", "output=all.jsonl", "launcher=ray", "quiet=true"]
    running = start(*words)
    try:
        wait_for(lambda: len(list((tmp_path / ".all.jsonl.parts").glob("part-*"))) > 10)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert "interrupted (SIGINT)" in err
    assert "give the same command again" in err
    assert finish(*words)[0] == 3
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 600
