"""The C++ client against Python."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from tests.bundles import PREPROCESSING

from classifier_training.export.calibrate import set_metadata
from classifier_training.export.calibration import TEMPERATURE_KEY
from classifier_training.export.pipeline import write_pipeline

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "clients" / "cpp"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build check_golden with the ONNX Runtime of $ONNXRUNTIME_ROOT, else the system's."""
    for name in ("cmake", "c++"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("build")
    root = os.environ.get("ONNXRUNTIME_ROOT", "")
    made = subprocess.run(
        ["cmake", "-S", SOURCE, "-B", folder, f"-DONNXRUNTIME_ROOT={root}", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode and not root and "Could not find" in made.stderr:
        pytest.skip("ONNX Runtime's or nlohmann-json's C++ headers are not installed; see clients/cpp/README.md")
    assert made.returncode == 0, made.stderr
    built = subprocess.run(["cmake", "--build", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stdout + built.stderr
    return folder / "check_golden"


def check(program: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, folder], capture_output=True, text=True, check=False)


def test_it_answers_the_golden_pictures_as_python_does(program: Path, run_dir_of_every_kind: RunDir) -> None:
    done = check(program, run_dir_of_every_kind.path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "4 of 4 pictures agree with Python"


def test_calibrated_answers_are_those_of_python(program: Path, calibrated_run_dir: RunDir) -> None:
    done = check(program, calibrated_run_dir.path)
    assert done.returncode == 0, done.stdout + done.stderr
    # The pictures tell a client apart that leaves the temperature out.
    model = onnx.load(calibrated_run_dir.pipeline)
    set_metadata(model, {TEMPERATURE_KEY: "0.7"})
    onnx.save(model, calibrated_run_dir.pipeline)
    assert check(program, calibrated_run_dir.path).returncode == 1
    set_metadata(model, {TEMPERATURE_KEY: "0"})
    onnx.save(model, calibrated_run_dir.pipeline)
    done = check(program, calibrated_run_dir.path)
    assert done.returncode == 2
    assert "temperature is no number above 0" in done.stderr


def test_a_difference_is_told_by_picture_and_exit_code(program: Path, changed_run_dir: RunDir) -> None:
    done = check(program, changed_run_dir.path)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:4]] == [
        "ok    0.png", "WRONG 1.png", "ok    2.png", "ok    3.png",
    ]  # fmt: skip


def test_a_pipeline_that_resizes_otherwise_is_told(program: Path, changed_run_dir: RunDir) -> None:
    letterboxed = dataclasses.replace(PREPROCESSING, policy="letterbox")
    write_pipeline(changed_run_dir.onnx, letterboxed, changed_run_dir.pipeline)
    done = check(program, changed_run_dir.path)
    assert done.returncode == 1
    assert done.stdout.count("WRONG") == 4


def test_a_folder_that_is_no_run_and_a_model_that_is_no_pipeline(
    program: Path, changed_run_dir: RunDir, tmp_path: Path
) -> None:
    done = check(program, tmp_path)
    assert done.returncode == 2
    assert "golden.json" in done.stderr
    content = changed_run_dir.pipeline.read_bytes()
    for wrong, words in (
        (changed_run_dir.onnx.read_bytes(), "it is not a pipeline.onnx"),
        (content[: len(content) // 2], "failed"),
    ):
        changed_run_dir.pipeline.write_bytes(wrong)
        done = check(program, changed_run_dir.path)
        assert done.returncode == 2
        assert words in done.stderr
