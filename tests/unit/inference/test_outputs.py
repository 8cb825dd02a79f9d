from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from classifier_training.core.errors import UserError
from classifier_training.core.types import Prediction
from classifier_training.inference.outputs import Output
from classifier_training.inference.rows import Row, screen_text, to_row, valid_text
from classifier_training.inference.sources import Item

NAMES = ("", "ü,\n", "c")
SETTINGS = {"model": "x", "top_k": 2}
PREDICTIONS = [
    Prediction(
        path=f"a/{number}.jpg",
        label="",
        confidence=0.5,
        top_k=(("", 0.5), ("ü,\n", 0.3)),
        probabilities={"": 0.5, "ü,\n": 0.3, "c": 0.2},
        rejected=True,
        reject_reason="low_confidence",
    )
    for number in range(3)
]
PREDICTIONS[1] = Prediction(path="a/1.jpg", error="no such file")
ITEMS = [Item(prediction.path, prediction.path) for prediction in PREDICTIONS]
ROWS = [to_row(prediction, probabilities=True) for prediction in PREDICTIONS]


def write(path: Path, *, number: int = 3, finish: bool = True, settings: dict[str, Any] = SETTINGS) -> int:
    """Write the first rows, going on where the last writer stopped; returns where that was."""
    with Output(str(path), settings=settings, probabilities=NAMES) as output:
        done = output.resume(ITEMS)
        for item, row in list(zip(ITEMS, ROWS, strict=True))[done:number]:
            output.add([item], [row])
        if finish:
            output.finish()
    return done


def read(path: Path) -> Sequence[Row]:
    if path.suffix == ".json":
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    rows = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            shares = {name: float(row[f"prob_{name}"]) for name in NAMES if row[f"prob_{name}"]}
            failed = bool(row["error"])
            rows.append(
                Row(
                    path=row["path"],
                    label=None if failed else row["label"],
                    confidence=None if failed else float(row["confidence"]),
                    top_k=json.loads(row["top_k"]),
                    rejected=None if failed else {"true": True, "false": False}[row["rejected"]],
                    reject_reason=row["reject_reason"] or None,
                    error=row["error"] or None,
                    probabilities=shares or None,
                )
            )
    return rows


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_every_format_gives_back_the_same_rows(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"new/answers.{ending}"
    write(path)
    assert read(path) == ROWS
    assert list(path.parent.iterdir()) == [path]
    write(path)
    assert len(read(path)) == 3, "a finished output is written anew, not added to"


@pytest.mark.parametrize("name", ["folder/", "folder"])
def test_a_folder_holds_a_file_an_image_below_the_paths_of_the_source(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path)
    assert sorted(file.name for file in (path / "a").iterdir()) == ["0.jpg.json", "1.jpg.json", "2.jpg.json"]
    assert json.loads((path / "a/2.jpg.json").read_text()) == ROWS[2]
    assert list(path.iterdir()) == [path / "a"]


@pytest.mark.parametrize("name", ["answers.json", "answers.jsonl", "answers.csv", "answers"])
@pytest.mark.parametrize("torn", [b"", b'{"path": "a/1.j', b'{"path": "a/1.jpg"}'])
def test_an_interrupted_output_goes_on(tmp_path: Path, name: str, torn: bytes) -> None:
    path = tmp_path / name
    write(path, number=1, finish=False)
    part = path / ".predictions.part" if name == "answers" else tmp_path / f".{name}.part"
    assert part.is_file()
    with part.open("ab") as file:
        file.write(torn)
    assert write(path) == 1
    if path.is_file():
        assert read(path) == ROWS
    else:
        assert len(list((path / "a").iterdir())) == 3
    assert not part.exists()


def test_other_settings_or_images_start_anew_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "answers.json"
    write(path, number=2, finish=False)
    assert write(path, number=2, finish=False, settings={**SETTINGS, "top_k": 3}) == 0
    assert "other settings (top_k)" in caplog.text
    with Output(str(path), settings={**SETTINGS, "top_k": 3}, probabilities=NAMES) as output:
        assert output.resume(ITEMS[1:]) == 0
    assert "about other images" in caplog.text
    write(path)
    assert read(path) == ROWS


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    path = str(tmp_path / "answers.json")
    with (
        Output(path, settings=SETTINGS, probabilities=NAMES),
        pytest.raises(UserError, match="another process"),
    ):
        Output(path, settings=SETTINGS, probabilities=NAMES)


def test_an_output_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no format"):
        Output("answers.xlsx", settings=SETTINGS, probabilities=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Output(str(tmp_path / "file/answers.json"), settings=SETTINGS, probabilities=None)


def test_a_name_as_long_as_names_can_be_gets_a_file(tmp_path: Path) -> None:
    item = Item("x", "é" * 125 + ".jpg")
    with Output(f"{tmp_path}/out", settings=SETTINGS, probabilities=None) as output:
        output.resume([item])
        output.add([item], [ROWS[0]])
        output.finish()
    (file,) = (tmp_path / "out").iterdir()
    assert file.suffix == ".json"


def test_names_that_are_no_text_are_written_as_escapes() -> None:
    assert valid_text(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert valid_text("café") == "café"
    assert screen_text("a\x1b[31m\n") == r"a\x1b[31m\n"
