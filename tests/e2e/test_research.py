"""The research notebooks, small: as scripts, and converted and run in a Jupyter kernel."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import torch
from nbclient import NotebookClient

SCRIPTS = Path(__file__).parents[2] / "scripts/research"

DATA = ["data=digits", "data.image_size=16"]
TRAINING = ["--epochs", "1", "trainer.precision=32", "transforms=none"]

WRITTEN = {
    "data_analysis": ("data_analysis.png", "model_requirements.png", "prepared_data.pkl", "data/report.html"),
    "model_comparison": (
        "model_comparison.png", "best_model_analysis.png", "best_model_student.pth", "model_comparison.csv",
    ),
    "distillation_and_production": ("distillation_analysis.png", "deployment_recommendations.md"),
}  # fmt: skip
"""Files of each notebook below research/."""

WORDS = {
    "data_analysis": DATA,
    "model_comparison": ["models=student", *DATA, *TRAINING],
    "distillation_and_production": [
        "teacher_model=cnn_v1", "temperatures=2", "formats=onnx,int8", *DATA, *TRAINING,
    ],
}  # fmt: skip


def check_files(name: str, folder: Path) -> None:
    for file in WRITTEN[name]:
        assert (folder / "research" / file).stat().st_size > 200, file


def test_settings_are_typed_as_scripts_are_used_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    helpers = importlib.import_module("research_helpers")
    monkeypatch.setattr(sys, "argv", ["x", "--epochs", "5", "--models", "student,cnn_v1", "--seed=3", "data.root=/a=b"])
    settings, own = helpers.typed(["data=digits"], models=["svm"])
    assert settings == ["data=digits", "trainer.max_epochs=5", "seed=3", "data.root=/a=b"]
    assert own == {"models": ["student", "cnn_v1"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["model_comparison", pytest.param("distillation_and_production", marks=pytest.mark.nightly)]
)
def test_a_script_writes_its_files(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", *WORDS[name]],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_files(name, tmp_path)
    if name == "model_comparison":
        weights = torch.load(tmp_path / "research/best_model_student.pth", weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in weights.values())
    else:
        text = (tmp_path / "research/deployment_recommendations.md").read_text()
        assert "## Teacher or student" in text
        assert "int8" in text


@pytest.mark.nightly
def test_a_notebook_is_converted_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-m", "jupytext", "--to", "notebook", "--output", str(tmp_path / "data_analysis.ipynb")]
    subprocess.run([*words, str(SCRIPTS / "data_analysis.py")], check=True, capture_output=True)
    notebook = nbformat.read(tmp_path / "data_analysis.ipynb", as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = f"SETTINGS = {DATA}"
    # Jupyter starts a notebook in its own folder, where its helpers lie.
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    check_files("data_analysis", tmp_path)
    prepared = pickle.loads((tmp_path / "research/prepared_data.pkl").read_bytes())
    train = prepared["splits"]["train"]
    assert train["images"].shape == (len(train["paths"]), 16, 16, 3)
    assert len(prepared["class_names"]) == 10


@pytest.mark.parametrize("name", WRITTEN)
def test_a_script_is_a_notebook_in_percent_format(name: str) -> None:
    notebook = jupytext.read(SCRIPTS / f"{name}.py")
    assert notebook.metadata["jupytext"]["text_representation"]["format_name"] == "percent"
    assert {cell.cell_type for cell in notebook.cells} == {"code", "markdown"}
    assert len(notebook.cells) > 10


def test_there_is_a_test_of_every_notebook() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} - {"research_helpers"} == set(WRITTEN)
