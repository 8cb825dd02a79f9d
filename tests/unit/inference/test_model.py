"""Which files may be predicted with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.inference.predictor import Predictor


@pytest.fixture
def copy(run_dir: RunDir, tmp_path: Path) -> RunDir:
    return RunDir(Path(shutil.copytree(run_dir.path, tmp_path / "copy")))


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def change_metadata(path: Path, **texts: str) -> None:
    model = onnx.load(path)
    for item in model.metadata_props:
        item.value = texts.get(item.key, item.value)
    onnx.save(model, path)


def accept_hash(run: RunDir) -> None:
    change_json(run.model_info, lambda info: info["files"]["model.onnx"].update(sha256=sha256(run.onnx)))


def refusal(run: Path) -> str:
    with pytest.raises(UserError) as error:
        Predictor(run)
    assert "\n  to do:    " in str(error.value)
    return error.value.came


def test_a_lone_file_answers_as_its_run_does(run_dir: RunDir, tmp_path: Path) -> None:
    draw_picture(tmp_path / "a.png", (200, 40, 40), seed=0)
    lone = Path(shutil.copy(run_dir.onnx, tmp_path / "lone.onnx"))
    expected = Predictor(run_dir.path)(tmp_path / "a.png")
    assert Predictor(lone)(tmp_path / "a.png") == expected
    assert Predictor(run_dir.onnx)(tmp_path / "a.png") == expected
    other = Path(shutil.copy(run_dir.onnx, run_dir.path / "model_other.onnx"))
    assert Predictor(other)(tmp_path / "a.png") == expected
    other.unlink()


@pytest.mark.parametrize("name", ["model.onnx", "labels_mapping.json"])
def test_a_missing_file_is_named(copy: RunDir, name: str) -> None:
    (copy.path / name).unlink()
    assert refusal(copy.path) == f"{copy.path / name}: is missing"


def test_an_edited_model_is_named_whichever_way_it_is_asked_for(copy: RunDir) -> None:
    with copy.onnx.open("ab") as file:
        file.write(b"\0")
    for run in (copy.path, copy.onnx):
        assert refusal(run).startswith(f"{copy.onnx}: has changed since it was exported")


def test_labels_that_disagree_are_named(copy: RunDir) -> None:
    change_json(copy.labels_mapping, lambda values: values.update(class_to_idx={"a": 1, "b": 0, "c": 2}))
    assert refusal(copy.path).startswith(f"{copy.labels_mapping}: its class names are not those of")
    copy.labels_mapping.write_text("{")
    assert "damaged" in refusal(copy.path)


def test_class_names_of_the_description_that_disagree_are_named(copy: RunDir) -> None:
    change_json(copy.model_info, lambda info: info.update(class_names=["a", "b"]))
    assert "3 and 2 of them" in refusal(copy.path)


def test_a_model_of_another_run_is_named(copy: RunDir) -> None:
    change_metadata(copy.onnx, class_names='["x", "b", "c"]')
    accept_hash(copy)
    assert "'x' and 'a' stand at the same place" in refusal(copy.path)


def test_another_preprocessing_is_named(copy: RunDir) -> None:
    change_json(copy.model_info, lambda info: info["preprocessing"].update(policy="crop"))
    assert "its preprocessing is not that of" in refusal(copy.path)


@pytest.mark.parametrize(
    ("texts", "words"),
    [({"class_names": "["}, "metadata does not say"), ({"class_names": '["a"]'}, "gives 3 values an image")],
)
def test_a_lone_file_that_does_not_speak_for_itself_is_refused(
    run_dir: RunDir, tmp_path: Path, texts: dict[str, str], words: str
) -> None:
    lone = Path(shutil.copy(run_dir.onnx, tmp_path / "lone.onnx"))
    change_metadata(lone, **texts)
    assert words in refusal(lone)


def test_what_is_no_model_is_refused(run_dir: RunDir, tmp_path: Path) -> None:
    (tmp_path / "lone.onnx").write_bytes(b"damaged")
    assert "cannot be loaded" in refusal(tmp_path / "lone.onnx")
    assert refusal(tmp_path / "none.onnx").endswith("is missing")
    assert "goes from image to probabilities" in refusal(run_dir.pipeline)
