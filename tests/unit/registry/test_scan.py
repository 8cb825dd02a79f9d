from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runs import make_run

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.registry import scan
from classifier_training.registry.record import DAMAGED, FINISHED, UNFINISHED, write_registration
from classifier_training.registry.scan import CACHE_NAME, Registry


def settle(root: Path) -> None:
    """Make all folders old enough to be remembered."""
    long_ago = time.time() - 60
    for folder, _, _ in os.walk(root):
        os.utime(folder, (long_ago, long_ago))


def test_a_run_is_read_from_its_files(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", "2026-01-02/10-00-00", score=0.75, category="pets", name="first")
    (record,) = Registry.open(tmp_path / "runs").runs.values()
    assert record.folder == "pets/first/2026-01-02/10-00-00"
    assert (record.status, record.version_name, record.scope) == (FINISHED, "pets/first:v1", "pets/first")
    assert (record.model, record.data, record.num_classes, record.seed) == ("resnet18", "/data/animals", 2, 1)
    assert record.metrics == {"loss": 0.25, "acc_top1": 0.75, "balanced_accuracy": 0.75}
    assert (record.num_epochs, record.train_seconds, record.best_epoch, record.size_bytes) == (2, 4.0, 1, 1000)


def test_the_cache_saves_reading_and_its_loss_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for hour in (9, 10, 11):
        make_run(tmp_path, f"2026-01-02/{hour:02d}-00-00")
    Registry.open(tmp_path)
    settle(tmp_path)
    before = Registry.open(tmp_path).runs
    monkeypatch.setattr(scan, "read_record", lambda *_: pytest.fail("it was read again"))
    assert Registry.open(tmp_path).runs.keys() == before.keys()
    monkeypatch.undo()
    (tmp_path / CACHE_NAME).unlink()
    assert Registry.open(tmp_path).runs == before
    # A run that came, one that changed and one that went are seen through the cache.
    make_run(tmp_path, "2026-01-02/12-00-00")
    shutil.rmtree(tmp_path / "2026-01-02/09-00-00")
    report = tmp_path / "2026-01-02/10-00-00/evaluation/classification_report.json"
    changed = json.loads(report.read_text())
    changed["metrics"]["balanced_accuracy"]["value"] = 0.9
    report.unlink()
    report.write_text(json.dumps(changed))
    after = Registry.open(tmp_path).runs
    assert [folder[-8:] for folder in sorted(after)] == ["10-00-00", "11-00-00", "12-00-00"]
    assert after["2026-01-02/10-00-00"].metrics["balanced_accuracy"] == 0.9


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": {}}', '{"format": "MLflow", "runs": 3}', "\x00\x01"])
def test_a_damaged_cache_is_made_anew_with_a_word(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path, "2026-01-02/10-00-00")
    (tmp_path / CACHE_NAME).write_text(content)
    with caplog.at_level(logging.WARNING):
        assert len(Registry.open(tmp_path).runs) == 1
    assert "rebuilt from the run folders" in caplog.text
    settle(tmp_path)
    Registry.open(tmp_path)
    assert json.loads((tmp_path / CACHE_NAME).read_text())["runs"].keys() == {"2026-01-02/10-00-00"}


def test_half_deleted_and_unfinished_runs_are_named(tmp_path: Path) -> None:
    (make_run(tmp_path, "2026-01-02/10-00-00") / "model.onnx").unlink()
    (make_run(tmp_path, "2026-01-02/11-00-00") / "config.yaml").unlink()
    (make_run(tmp_path, "2026-01-02/12-00-00") / "model_info.json").write_text('{"class_names": [')
    (make_run(tmp_path, "2026-01-02/13-00-00") / "result.json").write_text("{}")
    make_run(tmp_path, "2026-01-02/14-00-00", finished=False)
    found = {folder[-8:-6]: record for folder, record in Registry.open(tmp_path).runs.items()}
    assert "model.onnx missing" in found["10"].problem
    assert "config.yaml is missing" in found["11"].problem
    assert "model_info.json is no JSON" in found["12"].problem
    assert "KeyError" in found["13"].problem
    assert {found[hour].status for hour in ("10", "11", "12", "13")} == {DAMAGED}
    assert found["14"].status == UNFINISHED


def test_a_run_without_an_export_that_was_deleted_is_as_good_as_before(tmp_path: Path) -> None:
    run = make_run(tmp_path, "2026-01-02/10-00-00")
    info = json.loads((run / "model_info.json").read_text())
    info["files"]["model_int8.onnx"] = next(iter(info["files"].values()))
    (run / "model_info.json").write_text(json.dumps(info))
    (record,) = Registry.open(tmp_path).runs.values()
    assert (record.status, record.problem) == (FINISHED, "model_int8.onnx missing, which model_info.json lists")


def test_versions_stay_when_others_go_and_copies_get_their_own(tmp_path: Path) -> None:
    for hour in (9, 10, 11):
        make_run(tmp_path, f"2026-01-02/{hour:02d}-00-00")
    make_run(tmp_path, "2026-01-02/12-00-00", model="resnet50")
    names = {record.folder[-8:-6]: record.version_name for record in Registry.open(tmp_path).runs.values()}
    assert names == {"09": "resnet18:v1", "10": "resnet18:v2", "11": "resnet18:v3", "12": "resnet50:v1"}
    shutil.rmtree(tmp_path / "2026-01-02/09-00-00")
    (tmp_path / CACHE_NAME).unlink()
    shutil.copytree(tmp_path / "2026-01-02/11-00-00", tmp_path / "2026-01-03/11-00-00")
    names = {record.folder: record.version_name for record in Registry.open(tmp_path).runs.values()}
    assert names["2026-01-02/11-00-00"] == "resnet18:v3"
    assert names["2026-01-03/11-00-00"] == "resnet18:v4"


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = make_run(tmp_path / "elsewhere", "2026-01-02/10-00-00")
    root = tmp_path / "runs"
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    (root / "round").symlink_to(root)
    assert not Registry.open(root).runs


def test_where_nothing_can_be_written_runs_are_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "2026-01-02/10-00-00")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(scan, "hold", refuse)
    (record,) = Registry.open(tmp_path).runs.values()
    assert record.version is None
    with pytest.raises(UserError, match="there is no such folder"):
        Registry.open(tmp_path / "nowhere")


def test_two_processes_at_once_agree_on_the_versions(tmp_path: Path) -> None:
    for number in range(60):
        make_run(tmp_path, f"2026-01-02/10-00-{number:02d}")
    code = (
        "import sys; from pathlib import Path; from classifier_training.registry.scan import Registry; "
        "print(sorted((r.folder, r.version) for r in Registry.open(Path(sys.argv[1])).runs.values()))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate()[0] for process in processes]
    assert answers[0] == answers[1]
    assert [record.version for record in Registry.open(tmp_path).runs.values() if record.version is None] == []
    assert sorted(record.version or 0 for record in Registry.open(tmp_path).runs.values()) == list(range(1, 61))


def test_a_folder_whose_name_is_no_text_is_remembered(tmp_path: Path) -> None:
    folder = os.fsdecode(b"byte \xff")
    shutil.copytree(make_run(tmp_path, "2026-01-02/10-00-00"), tmp_path / "outputs" / folder)
    for _ in range(3):
        assert list(Registry.open(tmp_path / "outputs").runs) == [folder]
        settle(tmp_path / "outputs")
    assert list(json.loads((tmp_path / "outputs" / CACHE_NAME).read_text())["runs"]) == [folder]


def test_a_run_that_cannot_be_written_to_does_not_stop_the_numbers_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for hour in (10, 11):
        make_run(tmp_path, f"2026-01-02/{hour}-00-00", category="pets")

    def refuse(run: RunDir, **values: Any) -> None:
        if run.path.name.startswith("10"):
            raise PermissionError(13, "Permission denied")
        write_registration(run, **values)

    monkeypatch.setattr(scan, "write_registration", refuse)
    records = Registry.open(tmp_path).runs.values()
    assert {record.folder[-8:-6]: record.version for record in records} == {"10": None, "11": 1}
    assert "has no version, since it cannot be written to (Permission denied)" in caplog.text


def test_a_registry_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    make_run(tmp_path, "2026-01-02/10-00-00", category="pets")
    registry = Registry.open(tmp_path)
    (tmp_path / scan.LOCK_NAME).unlink()
    (tmp_path / scan.LOCK_NAME).mkdir()
    with pytest.raises(UserError, match="cannot be written to"), registry.locked():
        pass
