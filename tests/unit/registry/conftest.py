from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs; making one takes seconds."""
    pytest.importorskip("sqlalchemy")
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_uri(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database of this test's own, which MLflow's own variable names; artifacts lie beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_database, tmp_path / "team.db")
    uri = f"sqlite:///{tmp_path / 'team.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("CLASSIFIER_TRAINING_CACHE", str(tmp_path / "cache"))
    return uri
