from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from classifier_training.core.errors import UserError
from classifier_training.service.records import Compared, RolloutWriter, Served, read_rollout
from classifier_training.service.verdict import KEEP_ON, PROMOTE, ROLL_BACK, Rules

SHADOW = Compared("shadow", 1.0, "outputs/a", "aaaa", "outputs/b", "bbbb")
CANARY = Compared("canary", 0.5, "outputs/a", "aaaa", "outputs/b", "bbbb")
CAT, DOG = Served("cat", 0.9, seconds=0.01), Served("dog", 0.8, seconds=0.01)


def write(folder: Path, compared: Compared, lines: list[tuple[Any, ...]]) -> None:
    writer = RolloutWriter(folder, compared)
    for line in lines:
        writer.told(*line) if len(line) == 2 else writer.answered(*line)
    writer.close()
    assert writer.dropped == 0


def test_a_shadow_is_compared_by_the_labels_that_came_later_even_to_another_process(tmp_path: Path) -> None:
    write(tmp_path, SHADOW, [(f"r{number}", "production", CAT, DOG) for number in range(100)])
    write(tmp_path, SHADOW, [(f"r{number}", "dog") for number in range(100)])
    found = read_rollout(tmp_path).verdict(Rules())
    assert (found.state, found.kind, found.num_requests) == (PROMOTE, "shadow", 100)
    assert found.agreement is not None
    assert found.agreement.value == 0.0
    assert found.agreement.high == pytest.approx(0.0362, abs=1e-4)
    assert "agreement is not accuracy" in "\n".join(found.lines())
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_canary_is_compared_by_images_of_its_own(tmp_path: Path) -> None:
    lines: list[tuple[Any, ...]] = []
    for number in range(400):
        arm = "canary" if number % 2 else "production"
        lines += [(f"r{number}", arm, DOG if arm == "canary" else CAT), (f"r{number}", "cat")]
    write(tmp_path, CANARY, lines)
    found = read_rollout(tmp_path).verdict(Rules())
    assert (found.state, found.num_requests, found.num_present) == (ROLL_BACK, 200, 200)
    assert found.agreement is None


def test_no_label_is_said_and_gives_no_verdict(tmp_path: Path) -> None:
    write(tmp_path, SHADOW, [(f"r{number}", "production", CAT, CAT) for number in range(100)])
    found = read_rollout(tmp_path).verdict(Rules())
    assert found.state == KEEP_ON
    assert "100 more labelled images until the first look" in found.words
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_prediction_that_failed_is_wrong(tmp_path: Path) -> None:
    failed = Served(failed="RuntimeError")
    write(tmp_path, SHADOW, [(f"r{number}", "production", CAT, failed) for number in range(100)])
    write(tmp_path, SHADOW, [(f"r{number}", "") for number in range(100)])
    found = read_rollout(tmp_path).verdict(Rules())
    assert found.state == ROLL_BACK
    assert "failed 100.00%" in found.words
    assert found.accuracy.new.value == 0.0


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    write(tmp_path, SHADOW, [("r1", "production", CAT, DOG), ("r1", "production", CAT, CAT), ("r2", "production", CAT)])
    older = Compared("shadow", 1.0, "outputs/0", "0000", "outputs/b", "bbbb")
    write(tmp_path, older, [("o1", "production", CAT, DOG), ("r1", "dog"), ("nobody", "cat")])
    write(tmp_path, SHADOW, [])
    (newest, *_) = sorted((tmp_path / "rollout").iterdir())
    with newest.open("a") as file:
        file.write('{"id": "r3", "at": 1.0, "ar')
    (tmp_path / "rollout" / "other.jsonl").write_text("no record\n")
    rollout = read_rollout(tmp_path)
    assert rollout.served["r1"] == ("production", CAT, DOG)
    assert rollout.truths["r1"] == "dog"
    assert rollout.left_out == {
        "records of other pairs of runs": 1,
        "damaged lines": 1,
        "repeated request ids": 1,
        "labels of unknown requests": 1,
    }
    assert rollout.verdict(Rules()).left_out["requests that the shadow was too busy for"] == 1


def test_labels_of_a_table_and_its_errors(tmp_path: Path) -> None:
    write(tmp_path, SHADOW, [(f"r{number}", "production", CAT, DOG) for number in range(100)])
    table = tmp_path / "labels.csv"
    table.write_text("\ufeffid,label,by\n" + "".join(f"r{number},dog,me\n" for number in range(100)))
    assert read_rollout(tmp_path, labels=table).verdict(Rules()).state == PROMOTE
    table.write_text("name,label\nr1,dog\n")
    with pytest.raises(UserError, match="columns name, label"):
        read_rollout(tmp_path, labels=table)
    with pytest.raises(UserError, match="no such file"):
        read_rollout(tmp_path, labels=tmp_path / "none.csv")


def test_records_of_another_run_are_no_records_of_this_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no records of a roll-out\n"):
        read_rollout(tmp_path)
    write(tmp_path, SHADOW, [("r1", "production", CAT, DOG)])
    assert read_rollout(tmp_path, new={"bbbb"}).compared.new == "outputs/b"
    with pytest.raises(UserError, match="of this run, but of outputs/b"):
        read_rollout(tmp_path, new={"cccc"})


def test_a_full_disk_drops_records_and_counts_them(tmp_path: Path) -> None:
    writer = RolloutWriter(tmp_path, SHADOW)
    writer.path.unlink()
    writer.path.mkdir()
    writer.answered("r1", "production", CAT, DOG)
    writer.told("r1", "cat")
    writer.close()
    assert writer.dropped == 2


def test_no_file_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifier_training.service.records.secrets.token_hex", lambda _: "0" * 16)
    monkeypatch.setattr("classifier_training.service.records.time.strftime", lambda *_: "20260101T000000")
    write(tmp_path, CANARY, [("r1", "canary", CAT)])
    with pytest.raises(FileExistsError):
        RolloutWriter(tmp_path, CANARY)
    assert read_rollout(tmp_path).served == {"r1": ("canary", CAT, None)}
