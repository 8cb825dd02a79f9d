from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import yaml

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.core.run_dir import RunDir
from classifier_training.data.index import SampleIndex
from classifier_training.data.samples import Sample
from classifier_training.workflows.training.job import record_inputs
from classifier_training.workflows.training.settings import plain


def test_secrets_do_not_reach_the_saved_configuration() -> None:
    config = {
        "logging": {"mlflow": {"tracking_uri": "https://me:pass@host/x", "api_key": "abc", "auth_token": "t"}},
        "monitor": "val/loss",
        "token_count": "3",
    }
    assert plain(config) == {
        "logging": {"mlflow": {"tracking_uri": "https://***@host/x", "api_key": "***", "auth_token": "***"}},
        "monitor": "val/loss",
        "token_count": "3",
    }


def test_inputs_are_written_in_forms_that_can_be_read_back(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    config = {"trainer": {"max_time": timedelta(minutes=2)}, "names": ("a", "ü")}
    record_inputs(run_dir, plain(config), SampleIndex(tmp_path, (Sample("a.png", "x", "train"),)))
    assert yaml.safe_load(run_dir.config.read_text()) == {"trainer": {"max_time": 120.0}, "names": ["a", "ü"]}
    assert "torch" in json.loads(run_dir.versions.read_text())
    assert run_dir.splits.read_text().splitlines()[1] == "a.png,x,train,"
