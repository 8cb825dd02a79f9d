from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.registry.runs import find_model, find_run, find_unfinished, unfinished_like


def finish(folder: Path, *, value: float, at: int, metric: str = "val/balanced_accuracy") -> Path:
    folder.mkdir(parents=True)
    info = {"training_info": {"best_metric": {"name": metric, "value": value}}}
    (folder / "model_info.json").write_text(json.dumps(info))
    os.utime(folder / "model_info.json", (at, at))
    return folder


def test_words_stand_for_runs(tmp_path: Path) -> None:
    good = finish(tmp_path / "outputs/slides/2026-01-01/10-00-00", value=0.9, at=1000)
    new = finish(tmp_path / "outputs/2026-01-02/10-00-00", value=0.8, at=2000)
    damaged = finish(tmp_path / "outputs/2026-01-01/09-00-00", value=0.0, at=500) / "model_info.json"
    damaged.write_text("{")
    os.utime(damaged, (500, 500))
    assert find_run("latest").path.resolve() == new
    assert find_run("best").path.resolve() == good
    assert find_run(str(good)).path == good


def test_the_name_of_a_class_does_not_turn_the_best_into_the_worst(tmp_path: Path) -> None:
    finish(tmp_path / "outputs/2026-01-01/10-00-00", value=0.2, at=1000, metric="val/acc_class_gloss")
    good = finish(tmp_path / "outputs/2026-01-01/11-00-00", value=0.9, at=1000, metric="val/acc_class_gloss")
    assert find_run("best").path.resolve() == good
    finish(tmp_path / "losses/2026-01-01/10-00-00", value=2.0, at=1000, metric="val/loss")
    good = finish(tmp_path / "losses/2026-01-01/11-00-00", value=0.1, at=1000, metric="val/loss")
    assert find_run("best", output="losses").path.resolve() == good


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run") as caught:
        find_run("latest")
    assert "run=FOLDER" in caught.value.remedy
    with pytest.raises(UserError, match="no such folder"):
        find_run("outputs/nowhere")


def test_a_model_is_a_run_or_a_file(tmp_path: Path) -> None:
    run = finish(tmp_path / "outputs/2026-01-01/10-00-00", value=0.9, at=1000)
    (run / "model_int8.onnx").write_bytes(b"x")
    assert find_model("latest").resolve() == run
    assert find_model(str(run / "model_int8.onnx")) == run / "model_int8.onnx"
    with pytest.raises(UserError, match="no such file"):
        find_model("nowhere.onnx")


def test_an_unfinished_run_has_a_checkpoint_and_no_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no unfinished run"):
        find_unfinished("latest")
    for day, at in (("2026-01-01", 1000), ("2026-01-02", 2000)):
        file = tmp_path / "outputs" / day / "10-00-00/checkpoints/last.ckpt"
        file.parent.mkdir(parents=True)
        file.write_text("")
        os.utime(file, (at, at))
    finish(tmp_path / "outputs/2026-01-03/10-00-00", value=1, at=3000)
    # Ended without an export.
    done = tmp_path / "outputs/2026-01-04/10-00-00"
    (done / "checkpoints").mkdir(parents=True)
    (done / "checkpoints/last.ckpt").write_text("")
    (done / "result.json").write_text("{}")
    assert find_unfinished("latest").path.parent.name == "2026-01-02"
    assert find_unfinished("outputs/2026-01-01/10-00-00").path.parent.name == "2026-01-01"
    with pytest.raises(UserError, match=r"config\.yaml does not exist"):
        find_unfinished("outputs/2026-01-03/10-00-00")


def begin(folder: Path, config: str, *, finished: bool = False) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").write_text("")
    (folder / "config.yaml").write_text(config)
    if finished:
        (folder / "result.json").write_text("{}")
    return folder


def test_an_unfinished_run_is_known_by_its_configuration(tmp_path: Path) -> None:
    config = "model:\n  type: resnet18\nresume: null\nextend: null\n"
    begin(tmp_path / "2026-01-01/10-00-00", config)
    newest = begin(tmp_path / "2026-01-02/10-00-00", config.replace("null", "/some/run", 1))
    begin(tmp_path / "2026-01-03/10-00-00", config, finished=True)
    begin(tmp_path / "2026-01-04/10-00-00", config.replace("18", "50"))
    (tmp_path / "2026-01-05/10-00-00").mkdir(parents=True)
    found = unfinished_like(config, tmp_path)
    assert found is not None
    assert found.path == newest
    assert unfinished_like("model: other\n", tmp_path) is None
    assert unfinished_like(config, tmp_path / "nowhere") is None


def test_a_thousand_runs_are_looked_through_at_once(tmp_path: Path) -> None:
    for number in range(1000):
        begin(tmp_path / f"2026-01-{number % 28 + 1:02d}/{number:06d}", "seed: 1\n" * 80, finished=number % 10 > 0)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert unfinished_like("seed: 2\n", tmp_path) is None
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05
