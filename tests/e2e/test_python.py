"""The main job from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import SMALL

import classifier_training as ct

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(autouse=True)
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the log's handlers to the other tests of this process as they are."""
    monkeypatch.setattr("classifier_training.api.log_to_screen", lambda: None)


@pytest.fixture
def run(split_folder: Path, tmp_path: Path) -> ct.Run:
    settings = dict(word.split("=", 1) for word in SMALL)
    return ct.train(split_folder, epochs=1, seed=3, output=tmp_path / "outputs", settings=settings)


def test_a_run_is_trained_looked_at_used_and_found_again(run: ct.Run, split_folder: Path, tmp_path: Path) -> None:
    assert run.class_names == ("blue", "green", "red")
    score = run.metrics["balanced_accuracy"]
    assert 0 <= score.value <= 1
    assert f"balanced accuracy {score}" in repr(run)
    assert run.report().is_file()
    path = next(split_folder.glob("val/blue/*.png"))
    one = run.predict(path)
    assert one.label in run.class_names
    with Image.open(path) as image:
        assert [found.label for found in run.predict([path, np.asarray(image), path.read_bytes()])] == 3 * [one.label]
    assert ct.load_run("latest", output=tmp_path / "outputs").folder == run.folder
    assert ct.Predictor(run.folder)(path).top_k == one.top_k
    page = run._repr_html_()
    assert f"<td>{score}</td>" in page
    assert f"<p>{len(run.mistakes())} misclassified image" in page
    assert page.count("<figure") == min(len(run.mistakes()), 12)
    assert "data:image/" in page or not run.mistakes()
    assert run.verdict is not None
    assert run.verdict.status in ("ready", "not ready", "too few test images")
    assert f"Verdict: {run.verdict}" in page
    assert f", {run.verdict.status})" in repr(run)
    assert all(0 <= row["confidence"] <= 1 < 1 + row["loss"] for row in run.mistakes())


def test_a_run_is_exported_by_format(run: ct.Run) -> None:
    written = {path.name for path in run.export("torchscript", "fp16")}
    assert {"model.torchscript", "model_fp16.onnx"} <= written
    assert "run.lock" not in written
    with pytest.raises(ct.UserError, match="there is no format of that name"):
        run.export("floppy")


def test_a_setting_that_is_wrong_is_said_as_on_the_command_line(split_folder: Path) -> None:
    with pytest.raises(ct.UserError, match=r"trainer\.max_epochs=0: below 1"):
        ct.train(split_folder, epochs=0)
    with pytest.raises(ct.UserError, match="there is no such setting"):
        ct.train(split_folder, settings={"trainer.max_epoch": 3})


def test_a_metric_says_its_interval_where_it_has_one() -> None:
    assert str(ct.Metric(0.5, 0.25, 0.75)) == "0.5000 [0.2500, 0.7500]"
    assert str(ct.Metric(0.5, None, None)) == "0.5000"


def test_a_metric_is_a_number_to_float_and_to_a_format() -> None:
    metric = ct.Metric(0.5, 0.25, 0.75)
    assert float(metric) == 0.5
    assert f"{metric:.3f}" == "0.500"
    assert f"{metric}" == str(metric)


REPORT = {"metrics": {name: {"value": 0.5} for name in ("acc_top1", "balanced_accuracy", "macro_f1")}}


@pytest.fixture
def written(tmp_path: Path) -> ct.Run:
    """A run folder with tables alone, and no verdict, as one from before there were any."""
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/classification_report.json").write_text(json.dumps(REPORT))
    table = "path,true,predicted,confidence,loss,group,prob_cat,prob_dog\n1.jpg,cat,dog,0.9,2.3,,0.1,0.9\n"
    (tmp_path / "evaluation/errors.csv").write_text(table)
    return ct.Run(tmp_path)


@pytest.mark.parametrize(("name", "meant"), [("accuracy", "acc_top1"), ("f1", "macro_f1"), ("macro_F", "macro_f1")])
def test_a_metric_that_there_is_not_is_answered_with_the_nearest(written: ct.Run, name: str, meant: str) -> None:
    with pytest.raises(ct.UserError, match=rf'acc_top1, balanced_accuracy, macro_f1\n.*run\.metrics\["{meant}"\]'):
        written.metrics[name]
    with pytest.raises(KeyError):
        written.metrics["nonsense"]


def test_a_run_without_a_verdict_has_none(written: ct.Run) -> None:
    assert written.verdict is None
    assert "ready" not in repr(written)


def test_confidence_loss_and_probabilities_of_mistakes_are_numbers(written: ct.Run) -> None:
    (row,) = written.mistakes()
    assert (row["path"], row["group"]) == ("1.jpg", "")
    assert [value for value in row.values() if isinstance(value, float)] == [0.9, 2.3, 0.1, 0.9]


def test_importing_the_package_takes_no_time_and_no_libraries() -> None:
    code = (
        "import sys, classifier_training as ct; print(sorted({'torch', 'numpy', 'hydra'} & set(sys.modules)), dir(ct))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("[] ['Metric', 'Mistake', 'Prediction', 'Predictor', 'Run', 'UserError'")
