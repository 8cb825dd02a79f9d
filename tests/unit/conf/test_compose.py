from __future__ import annotations

import functools
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import change_values, compose, compose_values, group_options
from classifier_training.core.errors import UserError
from classifier_training.core.register import describe, entry
from classifier_training.data.formats.auto import AutoData

TRAIN = entry("verb", "train")


def values(*overrides: str) -> dict[str, Any]:
    return compose_values(TRAIN, overrides)


def test_arguments_are_built_from_overrides() -> None:
    arguments = compose(TRAIN, ["data.root=/x", "data.batch_size=7", "optimizer.lr=0.5", "model=resnet50"])
    assert arguments["data"] == AutoData(root="/x", batch_size=7)
    assert isinstance(arguments["optimizer"], functools.partial)
    assert arguments["optimizer"].keywords["lr"] == 0.5
    assert type(arguments["model"]).__name__ == "ResNet50"
    assert "ema" in arguments["callbacks"]
    assert arguments["seed"] == 0


def test_components_are_frozen() -> None:
    data = compose(TRAIN, ["data.root=/x"])["data"]
    with pytest.raises(FrozenInstanceError):
        data.batch_size = 3


def test_the_description_of_the_arguments_composes_to_the_same() -> None:
    arguments = compose(TRAIN, ["data.root=/x", "loss=focal", "sampler=manual", "sampler.weights={a: 2}"])
    described = describe(arguments)
    assert described["loss"] == {"type": "focal", "gamma": 2.0}
    assert described["sampler"] == {"type": "manual", "weights": {"a": 2.0}}
    assert described["data"]["root"] == "/x"


@pytest.mark.parametrize(
    ("override", "came", "remedy"),
    [
        ("data.bach_size=3", "there is no such setting", "data.batch_size=3"),
        ("model=resnet19", "no model of that name", "model=resnet18"),
        ("modle=resnet18", "there is no such setting", "model=resnet18"),
        ("callbacks.emma.decay=0.5", "there is no such setting", "callbacks.ema.decay=0.5"),
        ("data.batch_size=0", "greater than or equal to 1", "data.batch_size=64"),
        ("data.batch_size=many", "valid integer", "data.batch_size=64"),
        ("trainer.precision=17", "input should be", "trainer.precision=auto"),
        ("transforms.policy=squish", "input should be", "transforms.policy=squash"),
        ("imbalance=wieghts", "input should be", "imbalance=weights"),
        ("+data.nonsense=3", "there is no such setting", "classifier-training train --help lists them all"),
        ("sampler=manual", "sampler.weights is missing", "sampler.weights=…"),
        ("data.root", "not a setting", "data.root=…"),
        ("sampler.weights={'a': 3}", "not a setting", "without quotes"),
        ("data.root=a=b", "not a setting", "data.root='\"a=b\"'"),
        ("+model._target_=os.system", "there is no such setting", ""),
        ("data.type=digits", "there is no such setting", ""),
        ("~data.nonsense", "there is no such setting", ""),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_right_spelling(override: str, came: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(TRAIN, ["data.root=/x", override])
    assert came in caught.value.came
    assert remedy in caught.value.remedy
    assert len(str(caught.value).splitlines()) == 3


def test_without_data_the_sample_is_trained_on_below_what_the_user_says() -> None:
    found = values("trainer.max_epochs=3", "experiment=local")
    assert found["data"]["type"] == "digits"
    assert found["data"]["num_workers"] == 0
    assert found["data"]["image_size"] == 32
    assert found["trainer"]["max_epochs"] == 3
    assert values("data.root=/x")["data"]["type"] == "auto"
    assert values("data=jsonl")["data"]["type"] == "jsonl"


def test_experiments_set_what_they_say() -> None:
    found = values("experiment=jersey_ocr_resnet18", "data.root=/x", "optimizer.lr=1")
    assert found["data"]["type"] == "jsonl"
    assert found["model"] == {"type": "resnet18", "pretrained": True, "weights": None, "dropout": 0.0}
    assert found["logging"]["wandb"]["project"] == "jersey-ocr"
    assert found["optimizer"]["lr"] == 1
    local = values("experiment=jersey_ocr_resnet18_local", "data.root=/x")
    assert local["logging"] == {}
    assert local["data"]["num_workers"] == 0
    assert local["transforms"] == found["transforms"]


def test_a_callback_is_switched_off_and_another_on() -> None:
    arguments = compose(TRAIN, ["data.root=/x", "callbacks.ema=null"])
    assert "ema" not in arguments["callbacks"]
    assert "progress" in arguments["callbacks"]
    assert compose(TRAIN, ["data.root=/x", "callbacks=[checkpoint,ema]"])["callbacks"].keys() == {"checkpoint", "ema"}


def test_class_names_that_look_like_numbers_are_texts() -> None:
    sampler = compose(TRAIN, ["data.root=/x", "sampler=manual", "sampler.weights={10: 2, cat: 1}"])["sampler"]
    assert sampler.keywords["weights"] == {"10": 2.0, "cat": 1.0}


def test_several_loggers_can_be_chosen() -> None:
    assert values("data.root=/x", "logging=[tensorboard,mlflow]")["logging"].keys() == {"tensorboard", "mlflow"}


def test_times_are_seconds_or_clock_times() -> None:
    for text, expected in (("90", 90), ("00:10:00", 600)):
        trainer = compose(TRAIN, ["data.root=/x", f"trainer.max_time={text}"])["trainer"]
        assert trainer.max_time == timedelta(seconds=expected)


def test_the_users_own_folder_is_searched(tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/data").mkdir()
    (tmp_path / "conf/data/slides.yaml").write_text("defaults: [image_folder]\nroot: /slides\n")
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: slides\nseed: 7\n"
    )
    found = values("experiment=mine")
    assert found["data"]["root"] == "/slides"
    assert found["seed"] == 7
    assert "slides" in group_options(TRAIN)["data"]
    assert compose(TRAIN, ["data=slides"])["data"].root == "/slides"


def test_a_file_of_the_users_that_would_hide_a_component_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/resnet18.yaml").write_text("pretrained: true\n")
    with pytest.raises(UserError, match="name of a built-in model"):
        values("data.root=/x")


def test_yaml_that_cannot_be_composed_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text("defaults: [override /model: nothing]\n")
    with pytest.raises(UserError):
        values("experiment=mine", "data.root=/x")


def test_changes_to_a_saved_run_are_values_alone() -> None:
    saved = values("data.root=/x")
    assert change_values(saved, ["trainer.max_epochs=99"])["trainer"]["max_epochs"] == 99
    with pytest.raises(UserError, match="another model"):
        change_values(saved, ["model=resnet50"])
    with pytest.raises(UserError, match="no such setting"):
        change_values(saved, ["trainer.max_epoch=99"])


def test_a_fixed_component_has_settings_and_no_choice() -> None:
    predict = entry("verb", "predict")
    built = compose(predict, ["source=x", "data.batch_size=8", "trainer.accelerator=cpu"])
    assert (built["data"].batch_size, built["trainer"].accelerator) == (8, "cpu")
    with pytest.raises(UserError, match="nothing to choose"):
        compose(predict, ["source=x", "data=jsonl"])
    with pytest.raises(UserError, match="no such setting"):
        compose(predict, ["source=x", "data.root=/x"])
    with pytest.raises(UserError, match=r"data\.batch_size=0"):
        compose(predict, ["source=x", "data.batch_size=0"])
    # The groups of training are as they were.
    assert compose(entry("verb", "train"), ["data.root=/x", "data.batch_size=8"])["data"].image_size is None
