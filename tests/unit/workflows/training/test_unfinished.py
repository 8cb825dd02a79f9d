from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import SMALL

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.register import entry
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.unfinished import has_same_data, is_alike, offer_unfinished


def settings(folder: Path, *words: str) -> TrainSettings:
    return TrainSettings(**compose(entry("verb", "train"), [f"data.root={folder}", *SMALL, *words]))


@pytest.mark.parametrize(
    ("word", "alike"),
    [
        ("data.num_workers=3", True), ("data.store=off", False), ("extend=constant", True), ("output=elsewhere", True),
        ("trainer.max_time=1h", True), ("callbacks.checkpoint.every_seconds=5", True),
        ("seed=1", False), ("trainer.max_epochs=2", False), ("data.batch_size=2", False), ("optimizer=sgd", False),
        ("model.name=test_vit", False), ("loss=focal", False), ("callbacks.ema=null", False),
        ("monitor=val/loss", False),
    ],
)  # fmt: skip
def test_runs_are_alike_whose_weights_would_be(word: str, alike: bool, split_folder: Path) -> None:
    saved = settings(split_folder).config
    assert is_alike(saved, settings(split_folder, word).config) == alike


def test_other_images_are_other_data(split_folder: Path, tmp_path: Path) -> None:
    run, config = RunDir(tmp_path / "run"), settings(split_folder).config
    run.path.mkdir()
    assert not has_same_data(run, config), "a run that does not say what it is of"
    run.splits.write_text("path,label,split,group\ntrain/blue/00.png,blue,train,\n")
    assert has_same_data(run, config)
    (split_folder / "train/blue/00.png").unlink()
    assert not has_same_data(run, config)


def test_without_a_terminal_nothing_is_asked(split_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = compose(entry("verb", "train"), [f"data.root={split_folder}", *SMALL])
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    assert offer_unfinished(arguments) is arguments
