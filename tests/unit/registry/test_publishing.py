from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runs import make_run

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.registry.publishing import bundle_files

PROMOTE = entry("registry", "promote")


def promote(*words: str) -> str:
    return str(PROMOTE.run(compose(PROMOTE, words)))


def test_a_promotion_reaches_mlflows_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    for hour in (10, 11):
        make_run(tmp_path / "outputs", f"2026-01-02/{hour}-00-00", category="pets", score=hour / 20)
    words = ["publish=mlflow", "publish.tracking_uri=sqlite:///registry.db"]
    assert "pets-resnet18 version 1, alias production" in promote("run=pets/resnet18:v1", "alias=production", *words)
    promote("run=pets/resnet18:v2", "alias=production", *words)
    client = mlflow.MlflowClient("sqlite:///registry.db", "sqlite:///registry.db")
    held = client.get_model_version_by_alias("pets-resnet18", "production")
    assert (int(held.version), held.tags["version"]) == (2, "pets/resnet18:v2")
    run = client.get_run(held.run_id)
    assert run.data.metrics["test/balanced_accuracy"] == 0.55
    names = {Path(item.path).name for item in client.list_artifacts(held.run_id, Path(held.source).name)}
    assert names == {"model.onnx", "model_info.json", "labels_mapping.json", "config.yaml", "result.json"}


def test_a_server_that_is_not_there_is_named_and_the_promotion_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = make_run(tmp_path / "outputs", "2026-01-02/10-00-00")
    with pytest.raises(UserError, match=r"publish=mlflow: http://127\.0\.0\.1:9 does not answer") as caught:
        promote("run=latest", "alias=production", "publish=mlflow", "publish.tracking_uri=http://127.0.0.1:9")
    assert "the promotion itself stands" in caught.value.remedy
    assert "production" in (run / "registry.json").read_text()


def test_without_a_key_wandb_keeps_the_artifact_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = make_run(tmp_path / "outputs", "2026-01-02/10-00-00")
    said = promote("run=latest", "alias=production", "publish=wandb", "publish.mode=offline")
    assert "kept for later: wandb sync" in said
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))
    with pytest.raises(UserError, match="without a connection"):
        promote(
            "run=latest", "alias=production", "publish=wandb", "publish.mode=offline", "publish.registered_name=r/x"
        )


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_run(tmp_path / "outputs", "2026-01-02/10-00-00")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"publish={name} needs {name}") as caught:
        promote("run=latest", "alias=production", f"publish={name}")
    assert f"--extra {name}" in caught.value.remedy


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, classifier_training.cli as c; c.run(['registry', 'list', 'output=.']); "
        "c.run(['registry', 'cleanup', 'output=.', 'failed=true']); "
        "assert not {'torch', 'sklearn', 'matplotlib', 'mlflow', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_run_without_exports_is_not_published(tmp_path: Path) -> None:
    run = make_run(tmp_path, "2026-01-02/10-00-00", category="pets")
    info = json.loads((run / "model_info.json").read_text())
    (run / "model_info.json").write_text(json.dumps({**info, "files": {}}))
    with pytest.raises(UserError, match="has exported nothing"):
        bundle_files(RunDir(run))


def test_the_alias_is_a_word_where_the_run_has_its_key(tmp_path: Path) -> None:
    words = read_words(PROMOTE, ["run=pets:v1", "production"])
    assert compose(PROMOTE, words)["alias"] == "production"
