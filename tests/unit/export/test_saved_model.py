"""TensorFlow's SavedModel: what is said where its environment cannot be made, and the real conversion."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.export.test_export import INFO, examples, job_of

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import BuiltModel, InputSpec
from classifier_training.export.formats.saved_model import SavedModel, environment, variables
from classifier_training.export.job import ExportJob
from classifier_training.models.timm_models import timm_model


@pytest.fixture
def job(tmp_path: Path) -> ExportJob:
    torch.manual_seed(0)
    (tmp_path / "out").mkdir()
    model = timm_model(3, name="test_resnet", pretrained=False)
    return job_of(model, INFO, examples(tmp_path / "images"), tmp_path / "out")


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """Leave one program on the path, uv, which is a shell script."""
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    if script is not None:
        path = folder / "uv"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_without_uv_its_installation_is_named(job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path / "bin", monkeypatch, None)
    with pytest.raises(UserError, match="uv is not installed") as raised:
        SavedModel().export(job)
    assert raised.value.remedy == "pip install uv"


def test_without_a_network_the_reason_is_told(job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path / "bin", monkeypatch, "echo 'error: Failed to fetch the index' >&2; exit 2")
    with pytest.raises(UserError, match=r"onnx2tf==[\d.]+ cannot be installed \(error: Failed to fetch the index\)"):
        SavedModel().export(job)
    assert not (job.target.path / "saved_model").exists()


def test_a_process_that_dies_is_told_with_its_last_words(
    job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path / "bin", monkeypatch, "echo 'no such operator' >&2; exit 1")
    runner = SavedModel().open(job, tmp_path)
    with pytest.raises(CheckFailedError, match=r"TensorFlow cannot run it \(no such operator\)"):
        runner(np.zeros((1, 3, 48, 48), dtype=np.float32))


def test_the_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    monkeypatch.setenv("PYTHONPATH", "/of/ours")
    assert "PYTHONPATH" not in variables()
    assert variables()["PATH"] == os.environ["PATH"]
    assert "--no-project" in environment()


@pytest.mark.network
@pytest.mark.slow
def test_a_network_is_converted_and_compared_at_every_batch_size(
    job: ExportJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (file,) = SavedModel().export(dataclasses.replace(job, target=RunDir(Path("out"))))
    assert (file.path / "1/saved_model.pb").is_file()
    described = json.loads(json.dumps(file.describe()))
    assert described["parity"]["passed"]
    assert described["parity"]["batch_sizes"] == [1, 2, 7]
    assert described["parity"]["max_probability_difference"] < 1e-5


@pytest.mark.network
@pytest.mark.nightly
def test_a_file_of_another_network_is_refused(job: ExportJob, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 48 * 48, 3))
    built = BuiltModel(other, InputSpec(size=48, mean=(0.5,) * 3, std=(0.25,) * 3), "linear")
    (tmp_path / "other").mkdir()
    written = job_of(built, INFO, job.examples, tmp_path / "other")
    SavedModel().write(written, tmp_path / "other/saved_model")
    with pytest.raises(CheckFailedError, match="predictions differ from PyTorch's"):
        job.finish(
            tmp_path / "other/saved_model", "saved_model", SavedModel().open(job, tmp_path / "other/saved_model")
        )
