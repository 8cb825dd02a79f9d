"""Forms of data and splits on the real command line: trained on, read back, evaluated, resumed."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import COLOURS, SETTINGS, SMALL, draw_picture, read_csv
from tests.phone import num_files, phone_folder
from tests.server import Ended

from classifier_training.inference.predictor import Predictor

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]


def manifest(run: Path) -> list[dict[str, str]]:
    return read_csv(run / "splits.csv")


def newest(root: Path) -> Path:
    return max(root.glob("outputs/*/*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_two_folders_are_trained_on_by_group_then_compared_on_the_same_split(command: Command, tmp_path: Path) -> None:
    seed = 0
    for name in ("first", "second"):
        for session, label, number in itertools.product(range(4), ("blue", "red"), range(2)):
            seed += 1
            draw_picture(tmp_path / name / f"s{session}/{label}/0{number}.png", COLOURS[label], seed=seed)
        rows = [
            f"s{session}/{label}/0{number}.png,{label},{name}-{session}\n"
            for session in range(4) for label in ("blue", "red") for number in range(2)
        ]  # fmt: skip
        (tmp_path / name / "table.csv").write_text("path,label,session\n" + "".join(rows))
    roots = f"data.root=[{tmp_path}/first,{tmp_path}/second]"
    done = command("train", roots, "data.group=session", *SMALL, "trainer.max_epochs=2")
    assert done.code == 0, done.err
    run = newest(tmp_path)
    written = manifest(run)
    assert len(written) == 32
    assert written[0] == {**written[0], "path": "first/s0/blue/00.png", "label": "blue", "group": "first-0"}
    sides = {(row["group"], row["split"]) for row in written}
    assert len(sides) == 8

    again = command("evaluate", f"run={run}")
    assert again.code == 0, again.err
    exported = command("export", f"run={run}", "format=safetensors", f"output={tmp_path}/exported")
    assert exported.code == 0, exported.err

    other = command("train", roots, f"data.splits={run}/splits.csv", *SMALL, "seed=5")
    assert other.code == 0, other.err
    assert manifest(newest(tmp_path)) == written
    refused = command("train", roots, f"data.splits={run}/splits.csv", "data.val_fraction=0.2")
    assert refused.code == 2
    assert "data.splits defines the splits" in refused.err


def test_a_table_in_latin_1_is_refused_in_three_lines(command: Command, unsplit_folder: Path) -> None:
    (unsplit_folder / "table.csv").write_bytes("path,label\nblue/00.png,grün\n".encode("latin-1"))
    done = command("train", f"data.root={unsplit_folder}")
    assert done.code == 2
    assert "table.csv:2: not UTF-8" in done.err
    assert "expected: text in UTF-8" in done.err
    assert "to do:    data=csv data.encoding=latin-1" in done.err
    done = command("analyze", f"data.root={unsplit_folder}", "data=csv", "data.encoding=latin-1")
    assert done.code == 0, done.err


@pytest.mark.usefixtures("quick_runs")
def test_twelve_bits_in_sixteen_are_named_and_read_alike_by_training_and_prediction(
    tmp_path: Path, train_here: Callable[[list[str]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        for label, level in (("dark", 900), ("bright", 2900)):
            for number in range(count):
                seed = zlib.crc32(f"{split}{label}{number}".encode())
                values = np.random.default_rng(seed).integers(level - 400, level + 400, (32, 32)).astype(np.uint16)
                path = tmp_path / "scans" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(path)
    words = [f"data.root={tmp_path}/scans", *SMALL]
    train_here([*words, "callbacks=[checkpoint]"])
    (warning,) = [record for record in caplog.records if "more than 8 bits" in record.message]
    assert warning.levelname == "WARNING"
    assert "24 grey images of more than 8 bits that do not state which value is white" in warning.message
    assert "transforms.max_value=4095 if they have 12 bits" in warning.message
    caplog.clear()
    run = train_here([*words, "transforms.max_value=4095", "callbacks=[checkpoint,onnx_export]"])
    assert "more than 8 bits" not in caplog.text
    assert json.loads((run / "model_info.json").read_text())["preprocessing"]["max_value"] == 4095
    predictor = Predictor(run)
    picture = tmp_path / "scans/test/bright/0.png"
    with Image.open(picture) as image:
        values = np.asarray(image)
        from_memory = predictor(image)
    assert predictor(picture).confidence == from_memory.confidence
    eight_bits = np.repeat((values / 4095 * 255).round().astype(np.uint8)[..., None], 3, axis=2)
    assert predictor(eight_bits).confidence == from_memory.confidence
    answers = {row["path"]: float(row["confidence"]) for row in read_csv(run / "evaluation/predictions.csv")}
    assert answers[str(picture)] == pytest.approx(from_memory.confidence, abs=2e-3)


def test_corrections_are_part_of_a_run_and_of_its_resuming(command: Command, split_folder: Path) -> None:
    corrections = split_folder / "corrections.csv"
    corrections.write_text(
        "path,old,new,action\ntrain/blue/00.png,blue,red,relabel\ntest/red/00.png,red,,drop\n", encoding="utf-8"
    )
    done = command("train", f"data.root={split_folder}", *SMALL)
    assert done.code == 0, done.err
    assert "corrections: 1 label changed, 1 sample left out" in done.err
    run = newest(split_folder.parent)
    rows = {row["path"]: row["label"] for row in manifest(run)}
    assert rows["train/blue/00.png"] == "red"
    assert "test/red/00.png" not in rows
    # The run keeps its own, whatever the data's become.
    corrections.write_text("path,old,new,action\n", encoding="utf-8")
    resumed = command("train", f"resume={run}", "trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    assert {row["path"]: row["label"] for row in manifest(run)} == rows
    scored = command("evaluate", f"run={run}")
    assert scored.code == 0, scored.err
    assert len(read_csv(run / "evaluation/predictions.csv")) == 8


@pytest.mark.usefixtures("quick_runs")
def test_no_file_of_a_phone_folder_is_unaccounted_for_in_any_verb(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    root = phone_folder(tmp_path / "phone")
    expected = num_files(root)
    done = command("train", f"data.root={root}", *SMALL)
    assert done.code == 0, done.err
    assert f"23 of {expected} files are read as images; not read: 2 RAW photos" in done.err
    run = newest(tmp_path)
    assert any(row["path"].endswith(".HEIC") for row in manifest(run))
    analyzed = command("analyze", f"data.root={root}", "near_duplicates=false")
    assert "10 files in the folder are not read: 2 RAW photos (.cr2, .dng)" in analyzed.out
    for file in (run / "dataset/statistics.json", tmp_path / "data_report/statistics.json"):
        folder = json.loads(file.read_text())["folder"]
        assert folder["num_files"] == expected
        assert folder["num_read"] + sum(row["num_files"] for row in folder["not_read"]) == expected
        assert folder["num_read"] == 23
    for words in (["prepare", f"data.root={root}", "data.image_size=32"], ["predict", f"run={run}", f"source={root}"]):
        done = command(*words)
        assert done.code == 0, done.err
        number = 24 if words[0] == "predict" else 23
        assert f"{number} of {expected} files are read as images; not read: 2 RAW photos" in done.err


@pytest.mark.slow
def test_without_the_extra_predict_says_what_a_heic_photo_needs(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    root = phone_folder(tmp_path / "phone")
    (tmp_path / "path").mkdir()
    (tmp_path / "path/sitecustomize.py").write_text("import sys\nsys.modules['pillow_heif'] = None\n")
    done = command("train", f"data.root={root}", *SMALL, env={"PYTHONPATH": str(tmp_path / "path")})
    assert done.code == 0, done.err
    assert "not read: 6 HEIC photos (.heic): uv sync --extra heif   (or: pip install" in done.err
    photo = root / "blue/IMG_0000.HEIC"
    done = command("predict", f"run={newest(tmp_path)}", f"source={photo}", env={"PYTHONPATH": str(tmp_path / "path")})
    assert done.code == 3
    assert "a HEIC photo needs pillow-heif, which is not installed: uv sync --extra heif" in done.out
    assert command("predict", f"run={newest(tmp_path)}", f"source={photo}").code == 0


@pytest.mark.usefixtures("quick_runs")
def test_advice_on_a_table_works_when_it_is_obeyed(command: Command, unsplit_folder: Path) -> None:
    rows = [f"{label}/{number:02d}.png,{label}{number},{label}" for label in COLOURS for number in range(10)]
    (unsplit_folder / "labels.csv").write_text("\n".join(["id,session,colour", *rows]))
    words = ["analyze", f"data.root={unsplit_folder}/labels.csv", "near_duplicates=false"]
    for typed, wanted in (
        ([], "data=csv data.label_column=colour"),
        (["data=csv", "data.path_column=ids"], "data=csv data.path_column=id"),
    ):
        refused = command(*words, *typed)
        assert refused.code == 2
        advice = refused.err.partition("to do:")[2].strip()
        assert advice == wanted
        again = command(*words, *advice.split(), "data.label_column=colour")
        assert again.code == 0, again.err
        assert "3 classes, images: 30 all" in again.out


@pytest.mark.usefixtures("quick_runs")
def test_test_images_without_labels_are_predicted_after_training(command: Command, tmp_path: Path) -> None:
    root = tmp_path / "kaggle"
    rows = ["id,label"]
    for number in range(24):
        label = ("blue", "red")[number % 2]
        draw_picture(root / f"train/{number:03d}.png", COLOURS[label], seed=number)
        rows.append(f"{number:03d},{label}")
    (root / "train.csv").write_text("\n".join(rows))
    for number in range(5):
        draw_picture(root / f"test/{number:03d}.png", COLOURS["red"], seed=100 + number)
    (root / "test/004.png").write_bytes(b"no image")
    done = command("train", f"data.root={root}", *SMALL)
    assert done.code == 0, done.err
    run = newest(tmp_path)
    assert "test: 5 images without labels; train predicts them at its end" in done.err
    assert "5 test images without labels: predictions in " in done.err
    assert "test_predictions.csv; 1 of them cannot be read" in done.err
    written = read_csv(run / "evaluation/test_predictions.csv")
    assert [Path(row["path"]).name for row in written] == [f"{number:03d}.png" for number in range(5)]
    assert {row["label"] for row in written[:4]} <= {"blue", "red"}
    assert written[4]["error"]
    predicted = command("predict", f"run={run}", f"source={root}/test", "output=p.csv")
    assert predicted.code == 3
    assert [row["confidence"] for row in read_csv(tmp_path / "p.csv")] == [row["confidence"] for row in written]
    folder = json.loads((run / "dataset/statistics.json").read_text())["folder"]
    assert {row["kind"]: row["num_files"] for row in folder["not_read"]} == {"unlabelled": 5, "labels": 1}


@pytest.mark.usefixtures("quick_runs")
def test_a_run_without_a_test_split_is_scored_on_validation_and_says_so(
    command: Command, unsplit_folder: Path, tmp_path: Path
) -> None:
    done = command("train", f"data.root={unsplit_folder}", *SMALL, "data.test_fraction=0", "data.val_fraction=0.2")
    assert done.code == 0, done.err
    run = newest(tmp_path)
    assert sorted(row["split"] for row in manifest(run)) == ["train"] * 24 + ["val"] * 6
    assert "there is no test split; these images chose the weights" in done.out
    assert json.loads((run / "result.json").read_text())["split"] == "val"
    evaluated = command("evaluate", f"run={run}")
    assert evaluated.code == 0, evaluated.err
    assert "optimistic: these images chose the weights" in evaluated.out
    assert "chose the weights" in (run / "report.html").read_text()
    assert command("evaluate", f"run={run}", "split=test").code == 2
    assert command("export", f"run={run}", "format=torchscript").code == 0
    compared = command(
        "compare", "models=[cnn_v1]", f"data={unsplit_folder}", "data.test_fraction=0", *SETTINGS, "output=compared"
    )
    assert compared.code == 0, compared.err
    assert "unsplit: no test split; models are ranked on images that chose their weights: optimistic" in compared.err
