"""Each client against Python, by the golden images of a run."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import onnx
import pytest
from tests.bundles import PREPROCESSING

from classifier_training.export.bundle import TEMPERATURE_KEY, read_info
from classifier_training.export.calibrate import set_metadata
from classifier_training.export.pipeline import write_pipeline
from classifier_training.inference.predictor import Predictor

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.conftest import Client

    from classifier_training.core.run_dir import RunDir

pytestmark = pytest.mark.slow


def test_it_answers_the_golden_pictures_as_python_does(client: Client, run_dir_of_every_kind: RunDir) -> None:
    done = client.check(run_dir_of_every_kind.path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "4 of 4 images agree with Python"


def test_calibrated_answers_are_those_of_python(client: Client, calibrated_run_dir: RunDir) -> None:
    done = client.check(calibrated_run_dir.path)
    assert done.returncode == 0, done.stdout + done.stderr
    # The images tell a client apart that leaves the temperature out.
    model = onnx.load(calibrated_run_dir.pipeline)
    set_metadata(model, {TEMPERATURE_KEY: "0.7"})
    onnx.save(model, calibrated_run_dir.pipeline)
    assert client.check(calibrated_run_dir.path).returncode == 1
    set_metadata(model, {TEMPERATURE_KEY: "0"})
    onnx.save(model, calibrated_run_dir.pipeline)
    done = client.check(calibrated_run_dir.path)
    assert done.returncode == 2
    assert "temperature is no number above 0" in done.stderr


def test_a_weak_run_has_one_prediction_in_every_language(client: Client, weak_run_dir: RunDir) -> None:
    fitted = read_info(weak_run_dir).calibration
    assert fitted is not None
    assert fitted.temperature > 2
    done = client.check(weak_run_dir.path)
    assert done.returncode == 0, done.stdout + done.stderr
    differences = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines()[:4]]
    assert max(differences) < 1e-5
    golden = json.loads((weak_run_dir.golden / "golden.json").read_text())
    predictor = Predictor(weak_run_dir.path)
    for entry in golden["images"]:
        found = predictor(weak_run_dir.golden / entry["image"])
        assert found.label == entry["label"]
        assert found.confidence == pytest.approx(max(entry["probabilities"]), abs=1e-5)


def test_a_difference_is_told_by_picture_and_exit_code(client: Client, changed_run_dir: RunDir) -> None:
    done = client.check(changed_run_dir.path)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:4]] == [
        "ok    0.png", "WRONG 1.png", "ok    2.png", "ok    3.png",
    ]  # fmt: skip


def test_a_pipeline_that_resizes_otherwise_is_told(client: Client, changed_run_dir: RunDir) -> None:
    letterboxed = dataclasses.replace(PREPROCESSING, policy="letterbox")
    write_pipeline(changed_run_dir.onnx, letterboxed, changed_run_dir.pipeline)
    done = client.check(changed_run_dir.path)
    assert done.returncode == 1
    assert done.stdout.count("WRONG") == 4


def test_a_folder_that_is_no_run_and_a_model_that_is_no_pipeline(
    client: Client, changed_run_dir: RunDir, tmp_path: Path
) -> None:
    done = client.check(tmp_path)
    assert done.returncode == 2
    assert "golden.json" in done.stderr
    content = changed_run_dir.pipeline.read_bytes()
    for wrong, words in (
        (changed_run_dir.onnx.read_bytes(), "it is not a pipeline.onnx"),
        (content[: len(content) // 2], client.cut_short),
    ):
        changed_run_dir.pipeline.write_bytes(wrong)
        done = client.check(changed_run_dir.path)
        assert done.returncode == 2
        assert words in done.stderr
