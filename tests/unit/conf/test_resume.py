from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose_values
from classifier_training.conf.resume import change_values, keeps_exactness, on_resume
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry
from classifier_training.core.settings import Resume

TRAIN = entry("verb", "train")


def unfinished(folder: Path, *, at: int) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").write_text("")
    os.utime(folder / "checkpoints/last.ckpt", (at, at))
    (folder / "config.yaml").write_text(yaml.safe_dump(compose_values(TRAIN, ["data.root=/x"])))
    return folder


@pytest.mark.parametrize(
    "word",
    [
        "trainer.max_epochs=99", "trainer.max_time=null", "trainer.accelerator=cpu", "data.num_workers=2",
        "data.on_error=skip", "data.root=/moved", "callbacks.checkpoint.every_seconds=0",
        "callbacks.checkpoint.every_minutes=0", "optimizer.lr=3",
        "optimizer.weight_decay=0.1", "data.batch_size=32", "trainer.precision=32", "transforms.hflip=0.5",
        "loss.label_smoothing=0.2", "extend=restart",
    ],
)  # fmt: skip
def test_what_can_change_changes(word: str) -> None:
    saved = compose_values(TRAIN, ["data.root=/x"])
    assert change_values(saved, [word]) == compose_values(TRAIN, ["data.root=/x", word])


@pytest.mark.parametrize(
    "word",
    [
        "transforms.policy=crop", "data.image_size=64", "init_from=/x", "optimizer=sgd",
        "callbacks.early_stopping.patience=3", "callbacks.ema=null", "monitor=val/loss", "name=x",
        "output=x", "category=x", "imbalance=none", "seed=3", "data.val_fraction=0.3", "model=resnet50",
    ],
)  # fmt: skip
def test_what_made_the_run_stays(word: str) -> None:
    with pytest.raises(UserError, match="cannot be resumed with another"):
        change_values(compose_values(TRAIN, ["data.root=/x"]), [word])


def test_what_can_change_is_listed_by_group() -> None:
    with pytest.raises(UserError) as caught:
        change_values(compose_values(TRAIN, ["data.root=/x", "logging=[wandb]"]), ["logging=[mlflow]"])
    assert caught.value.expected == (
        "changes of data.batch_size, data.num_workers, data.on_error, data.root, data.cache_gb, transforms.* (not "
        "policy, backend, kernel, channel_order and max_value), loss.*, optimizer.*, callbacks.checkpoint.*, "
        "trainer.*, logging.wandb.*, extend, promote, target.*"
    )


@pytest.mark.parametrize(
    ("key", "effect"),
    [
        ("trainer.max_time", Resume.LIMIT), ("data.num_workers", Resume.EXACT), ("data.on_error", Resume.EXACT),
        ("callbacks.checkpoint.keep_last", Resume.EXACT), ("logging.wandb.project", Resume.EXACT),
        ("trainer.max_epochs", Resume.DIVERGES), ("data.root", Resume.DIVERGES), ("logging", Resume.FIXED),
        ("no.such.setting", Resume.FIXED),
    ],
)  # fmt: skip
def test_a_change_keeps_the_run_exact_or_makes_it_another(key: str, effect: Resume) -> None:
    assert on_resume(key) is effect
    assert keeps_exactness(key) == (effect in (Resume.EXACT, Resume.LIMIT))


def test_a_setting_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match="no such setting"):
        change_values(compose_values(TRAIN, ["data.root=/x"]), ["trainer.max_epoch=99"])


def test_the_latest_run_is_looked_for_where_the_user_says(tmp_path: Path) -> None:
    unfinished(tmp_path / "outputs/2026-01-02/10-00-00", at=2000)
    other = unfinished(tmp_path / "elsewhere/2026-01-01/10-00-00", at=1000)
    found = compose_values(TRAIN, ["resume=latest", "output=elsewhere", "trainer.max_epochs=7"])
    assert Path(found["resume"]).absolute() == other
    assert (found["trainer"]["max_epochs"], found["output"]) == (7, "outputs")


def test_targets_by_class_change_on_resume() -> None:
    saved = compose_values(TRAIN, ["data.root=/x", "target.recall={cat: 0.9}"])
    assert change_values(saved, ["target.recall={dog: 0.8}"])["target"]["recall"] == {"dog": 0.8}
    assert change_values(saved, ["target.recall=0.7"])["target"]["recall"] == 0.7
    with pytest.raises(UserError, match="cannot be resumed with another target"):
        change_values(saved, ["target=default"])
