"""The main job from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import SMALL

import classifier_training as ct

pytestmark = pytest.mark.usefixtures("undrawn")


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


def test_a_run_is_exported_by_format(run: ct.Run) -> None:
    written = {path.name for path in run.export("torchscript", "fp16")}
    assert {"model.torchscript", "model_fp16.onnx"} <= written
    with pytest.raises(ct.UserError, match="there is no format of that name"):
        run.export("floppy")


def test_a_setting_that_is_wrong_is_said_as_on_the_command_line(split_folder: Path) -> None:
    with pytest.raises(ct.UserError, match=r"trainer\.max_epochs=0: input should be greater than or equal to 1"):
        ct.train(split_folder, epochs=0)
    with pytest.raises(ct.UserError, match="there is no such setting"):
        ct.train(split_folder, settings={"trainer.max_epoch": 3})


def test_a_metric_says_its_interval_where_it_has_one() -> None:
    assert str(ct.Metric(0.5, 0.25, 0.75)) == "0.5000 [0.2500, 0.7500]"
    assert str(ct.Metric(0.5, None, None)) == "0.5000"


def test_importing_the_package_takes_no_time_and_no_libraries() -> None:
    code = (
        "import sys, classifier_training as ct; print(sorted({'torch', 'numpy', 'hydra'} & set(sys.modules)), dir(ct))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("[] ['Metric', 'Prediction', 'Predictor', 'Run', 'UserError'")
