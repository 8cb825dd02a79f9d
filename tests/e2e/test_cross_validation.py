"""`train data.num_folds=…`, and what runs together predict and export."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SMALL, draw_picture, make_class_folders, read_csv
from tests.server import Ended, Warm

import classifier_training as ct
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import softmax
from classifier_training.inference.predictor import Predictor

Command = Callable[..., Ended]
FOLDS = ("data.num_folds=2", "data.store=off")
NUM_IMAGES = {"blue": 20, "green": 16, "red": 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a test split of their own, and a validation split that the folds take the place of."""
    root = tmp_path_factory.mktemp("folds") / "images"
    make_class_folders(root / "train", NUM_IMAGES)
    make_class_folders(root / "val", dict.fromkeys(NUM_IMAGES, 2))
    make_class_folders(root / "test", dict.fromkeys(NUM_IMAGES, 4))
    return root


@pytest.fixture(scope="module")
def done(data: Path, forked_commands: Warm) -> Ended:
    """A command that trained both folds."""
    words = ["train", str(data), *FOLDS, *SMALL, "output=out"]
    return forked_commands.quick().run(words, cwd=data.parent)


@pytest.fixture(scope="module")
def run(done: Ended, data: Path) -> RunDir:
    assert done.code == 0, done.err
    (config,) = (data.parent / "out").glob("*/*/config.yaml")
    return RunDir(config.parent)


def good(ended: Ended) -> Ended:
    """A command that did what it was asked for."""
    assert ended.code == 0, ended.err
    return ended


def shares_of(folder: Path, paths: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Calibrated probabilities of a run."""
    predictor = Predictor(folder)
    logits = np.stack([one.logits for one in predictor.raw_outputs(paths) if one.logits is not None])
    return softmax(np.asarray(logits / predictor.temperature, dtype=np.float32))


def test_each_training_image_is_predicted_by_the_fold_without_it(run: RunDir, data: Path) -> None:
    rows = read_csv(run.out_of_fold)
    assert list(rows[0])[:7] == ["path", "true", "predicted", "confidence", "loss", "group", "fold"]
    train = {row["path"]: row["fold"] for row in read_csv(run.splits) if row["split"] == "train"}
    assert len(train) == sum(NUM_IMAGES.values()) + 6
    assert {Path(row["path"]).relative_to(data).as_posix(): row["fold"] for row in rows} == train
    for fold in (0, 1):
        held_out = {row["path"] for row in read_csv(run.fold(fold).splits) if row["split"] == "val"}
        assert held_out == {path for path, number in train.items() if number == str(fold)}
        own = [row for row in rows if row["fold"] == str(fold)]
        found = np.array([[float(row[f"prob_{name}"]) for name in NUM_IMAGES] for row in own])
        assert np.abs(found - shares_of(run.fold(fold).path, [row["path"] for row in own])).max() < 1e-5


def test_metrics_have_mean_spread_and_an_interval(run: RunDir, done: Ended) -> None:
    found = json.loads(run.cross_validation.read_text())
    score = found["metrics"]["out-of-fold"]["acc_top1"]
    assert score["mean"] == pytest.approx(np.mean(score["per_fold"]))
    assert score["sd"] == pytest.approx(np.std(score["per_fold"], ddof=1))
    rows = read_csv(run.out_of_fold)
    assert score["value"] == pytest.approx(np.mean([row["true"] == row["predicted"] for row in rows]))
    assert score["low"] <= score["value"] <= score["high"]
    tested = found["metrics"]["test"]["balanced_accuracy"]
    assert tested["per_fold"] == [
        json.loads(run.fold(fold).result.read_text())["metrics"]["balanced_accuracy"] for fold in (0, 1)
    ]
    assert json.loads(run.result.read_text())["metrics"]["balanced_accuracy"] == tested["value"]
    assert f"{tested['mean']:.4f} ± {tested['sd']:.4f}" in done.out
    page = run.report.read_text()
    assert "out-of-fold images" in page
    assert "<h2>Folds</h2>" in page
    # What each process says is in its own log.
    assert "epoch 1/1" not in done.err
    assert "epoch 1/1" in (run.fold(0).path / "job.log").read_text()


def test_the_ensemble_is_the_mean_of_the_folds_in_one_file(run: RunDir, data: Path, command: Command) -> None:
    paths = [str(path) for path in sorted((data / "test").rglob("*.png"))]
    mean = np.mean([shares_of(run.fold(fold).path, paths) for fold in (0, 1)], axis=0)
    assert np.abs(shares_of(run.path, paths) - mean).max() < 1e-5
    for reference in (run.path, f"[{run.fold(0).path},{run.fold(1).path}]"):
        good(command("predict", str(data / "test"), f"run={reference}", "output=p.json", "probabilities=true"))
        found = {row["path"]: row["probabilities"] for row in json.loads(Path("p.json").read_text())}
        assert np.abs(np.array([list(found[path].values()) for path in paths]) - mean).max() < 1e-5


def test_a_cross_validation_is_one_run_to_the_registry_and_to_python(run: RunDir, command: Command) -> None:
    listed = good(command("registry", "list", f"output={run.path.parents[1]}")).out
    assert len(listed.strip().splitlines()) == 2
    loaded = ct.load_run(run.path)
    assert 0 <= loaded.metrics["balanced_accuracy"].value <= 1
    assert loaded.predict(read_csv(run.out_of_fold)[0]["path"]).label in NUM_IMAGES
    several = f"[{run.fold(0).path},{run.fold(1).path}]"
    scores = []
    for number, reference in enumerate((str(run.path), several)):
        good(command("evaluate", f"run={reference}", f"output={number}", "intervals=false"))
        scores.append(json.loads(Path(f"{number}/classification_report.json").read_text())["metrics"])
    assert scores[0]["loss"]["value"] == pytest.approx(scores[1]["loss"]["value"], abs=1e-5)


def test_what_needs_one_network_names_a_fold(run: RunDir, data: Path, command: Command) -> None:
    refused = command("train", str(data), f"init_from={run.path}", *SMALL)
    assert refused.code == 2
    assert "a cross-validation has a network for each fold" in refused.err
    assert str(run.fold(0).path) in refused.err


def test_thresholds_of_an_ensemble_come_from_out_of_fold_predictions(run: RunDir, data: Path, command: Command) -> None:
    image = next((data / "test/red").iterdir())
    sets = command("predict", str(image), f"run={run.path}", "label_set.coverage=0.8", "output=p.json")
    assert sets.code == 0, sets.err
    assert json.loads(Path("p.json").read_text())[0]["label_set"]
    foreign = command("predict", str(image), f"run={run.path}", "reject.foreign=true")
    assert "is an ensemble, which lacks a score for images unlike the training data" in foreign.err
    several = f"run=[{run.fold(0).path},{run.fold(1).path}]"
    assert "is an ensemble, which lacks" in command("predict", str(image), several, "reject.precision=0.9").err


def test_an_ensemble_is_exported_as_one_file(run: RunDir, data: Path, command: Command) -> None:
    several = f"run=[{run.fold(0).path},{run.fold(1).path}]"
    assert "without output" in command("export", several).err
    made = command("export", several, "output=both")
    assert made.code == 0, made.err
    assert "model.onnx: agrees with the mean of its models on" in made.out
    paths = [str(path) for path in sorted((data / "test").rglob("*.png"))]
    shutil.copy("both/model.onnx", "alone.onnx")
    assert np.abs(shares_of(Path("alone.onnx"), paths) - shares_of(run.path, paths)).max() < 1e-5
    refused = command("export", str(run.path), "format=torchscript", "output=other")
    assert "format=torchscript: an ensemble has no one network" in refused.err


def test_models_of_other_classes_are_no_ensemble(run: RunDir, data: Path, command: Command, tmp_path: Path) -> None:
    shutil.copytree(run.fold(1).path, tmp_path / "other")
    for path in (tmp_path / "other/model_info.json", tmp_path / "other/labels_mapping.json"):
        path.write_text(path.read_text().replace('"red"', '"rose"'))
    import onnx

    model = onnx.load(tmp_path / "other/model.onnx")
    names = {item.key: item.value.replace('"red"', '"rose"') for item in model.metadata_props}
    onnx.helper.set_model_props(model, names)
    onnx.save(model, tmp_path / "other.onnx")
    refused = command("predict", str(data / "test"), f"run=[{run.fold(0).path},{tmp_path / 'other.onnx'}]")
    assert refused.code == 2
    assert "have other classes: the second lacks 'red'; the first lacks 'rose'" in refused.err


@pytest.mark.slow
def test_an_interrupted_cross_validation_resumes(data: Path, tmp_path: Path, forked_commands: Warm) -> None:
    words = ["train", str(data), *FOLDS, *SMALL, "trainer.max_epochs=10", "output=out"]
    runs = forked_commands.quick()
    pid = runs.start(words, cwd=tmp_path, env={"CLASSIFIER_TRAINING_CORES": "1"})
    while not list((tmp_path / "out").glob("*/*/folds/1/metrics.csv")):
        assert not runs.has_ended(pid), runs.wait(pid).err
        time.sleep(0.05)
    os.kill(pid, signal.SIGINT)
    ended = runs.wait(pid)
    said = ended.err
    assert ended.code == 130, said
    (config,) = (tmp_path / "out").glob("*/*/config.yaml")
    run = RunDir(config.parent)
    assert f"train resume={run.path.relative_to(tmp_path)}" in said
    assert run.fold(0).result.exists()
    assert not run.fold(1).result.exists()
    assert not run.result.exists()
    before = run.fold(0).result.stat().st_mtime_ns
    done = good(runs.run(["train", "resume=latest", "output=out"], cwd=tmp_path))
    assert "1 fold of 2 finished before" in done.err
    assert run.result.exists()
    assert run.fold(0).result.stat().st_mtime_ns == before
    assert {row["fold"] for row in read_csv(run.out_of_fold)} == {"0", "1"}


def test_a_table_in_the_form_of_a_sample(run: RunDir, data: Path, command: Command, tmp_path: Path) -> None:
    for number in range(3):
        draw_picture(tmp_path / f"images/{number}.png", (30, 60, 200), seed=number)
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("id,label\n2,red\n0,red\n")
    words = ["predict", "images", f"run={run.path}", "output=mine.csv"]
    made = good(command(*words, f"columns={sample}"))
    assert "2 rows written; 1 image left out, which the sample does not have" in made.out
    assert [(row["id"], row["label"] in NUM_IMAGES) for row in read_csv(tmp_path / "mine.csv")] == [
        ("2", True),
        ("0", True),
    ]
    sample.write_text("image,Red,Blue,Green\n1.png,0,0,0\n")
    good(command(*words, f"columns={sample}"))
    (row,) = read_csv(tmp_path / "mine.csv")
    assert list(row) == ["image", "Red", "Blue", "Green"]
    assert sum(float(row[name]) for name in ("Red", "Blue", "Green")) == pytest.approx(1)
    sample.write_text("id,label\n7,red\n")
    assert "1 row of 1 without an image in the source: 7" in command(*words, f"columns={sample}").err
    good(command(*words, "columns=[image_id:name,label]"))
    assert [row["image_id"] for row in read_csv(tmp_path / "mine.csv")] == ["0.png", "1.png", "2.png"]
