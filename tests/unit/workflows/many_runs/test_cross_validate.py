from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.conftest import SMALL

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.training.settings import TrainerSettings
from classifier_training.workflows.many_runs import cross_validate
from classifier_training.workflows.many_runs.cross_validate import next_words, num_parallel, refuse_devices
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.train import train_here

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings() -> TrainSettings:
    return TrainSettings(**compose(entry("verb", "train"), ["data=digits", "data.num_folds=3", *SMALL]))


def write_fold(folder: Path, config: dict[str, Any], *, is_finished: bool) -> RunDir:
    fold = RunDir(folder / "folds/1")
    fold.path.mkdir(parents=True)
    own = {**config, "data": {**config["data"], "fold": 1}, "time": 60.0}
    fold.config.write_text(yaml.safe_dump(own))
    if is_finished:
        fold.result.write_text("{}")
    return fold


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_fold_resumes_with_what_has_changed(tmp_path: Path, settings: TrainSettings, *, is_finished: bool) -> None:
    config = {**settings.config, "data": {**settings.config["data"], "root": ["/old/a", "/old/c"]}}
    fold = write_fold(tmp_path, config, is_finished=is_finished)
    resumed = ["train", f"resume={fold.path}"]
    assert next_words(fold, config) == (None if is_finished else resumed)
    # What no weight depends on makes no finished fold train again.
    moved = {**config, "data": {**config["data"], "num_workers": 2}}
    assert next_words(fold, moved) == (None if is_finished else [*resumed, "data.num_workers=2"])
    longer = {**config, "trainer": {**config["trainer"], "max_epochs": 9}}
    assert next_words(fold, longer) == [*resumed, "trainer.max_epochs=9"]
    assert next_words(fold, {**longer, "extend": "restart"}) == [*resumed, "trainer.max_epochs=9", "extend=restart"]
    folders = {**config, "data": {**config["data"], "root": ["/new/a b", "/new/c"]}}
    assert next_words(fold, folders) == [*resumed, 'data.root=["/new/a b",/new/c]']


def test_as_many_folds_at_a_time_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_validate, "visible_gpus", lambda: ["0", "1", "2"])
    on_cpu = TrainerSettings(accelerator="cpu")
    assert num_parallel(TrainerSettings(accelerator="gpu"), 5) == 3
    assert num_parallel(TrainerSettings(accelerator="gpu"), 2) == 2
    monkeypatch.setattr(cross_validate, "num_cores", lambda: 4)
    memory = "classifier_training.training.batch_size.available_memory_bytes"
    monkeypatch.setattr(memory, lambda: 64 * 2**30)
    assert num_parallel(on_cpu, 5) == 4
    monkeypatch.setattr(memory, lambda: 9 * 2**30)
    assert num_parallel(on_cpu, 5) == 2
    monkeypatch.setattr(memory, lambda: 2**30)
    assert num_parallel(on_cpu, 5) == 1
    assert num_parallel(TrainerSettings(accelerator="mps"), 5) == 1
    with pytest.raises(UserError, match="each fold is trained on one GPU"):
        refuse_devices(replace(on_cpu, num_devices=2))


def test_a_secret_that_the_folds_would_need_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["data=digits", "data.num_folds=3", "logging=mlflow", "logging.mlflow.tracking_uri=http://me:SECRET@host"]
    settings = TrainSettings(**compose(entry("verb", "train"), words))
    with pytest.raises(UserError, match=r"a secret in logging\.mlflow\.tracking_uri=http://\*\*\*@host") as found:
        cross_validate.cross_validate(settings)
    assert "SECRET" not in str(found.value)
    assert not (tmp_path / "outputs").exists()


def test_one_run_is_not_trained_on_all_folds(settings: TrainSettings) -> None:
    with pytest.raises(UserError, match=r"data\.num_folds=3 without data\.fold: one run"):
        train_here(settings)
