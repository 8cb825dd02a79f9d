from __future__ import annotations

import functools
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose, compose_values
from classifier_training.conf.store import group_options
from classifier_training.core.errors import UserError
from classifier_training.core.register import describe, entry
from classifier_training.data.formats.image_folder import AutoData

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
        ("data.batch_size=0", "below 1", "data.batch_size=auto"),
        ("data.batch_size=many", "not a whole number", "data.batch_size=auto"),
        ("trainer.precision=17", "no such choice", "trainer.precision=auto"),
        ("model.pretrained=maybe", "neither true nor false", "model.pretrained=auto"),
        ("transforms.policy=squish", "no such choice", "transforms.policy=squash"),
        ("time=5", "5 seconds or minutes? It has no unit", "time=5m"),
        ("time=abc", "not a duration", "time=10m"),
        ("time=0", "no time at all", "time=10m"),
        ("optimizer.lr=abc", "not a number", "optimizer.lr=0.001"),
        ("transforms.hflip=2", "above 1", "transforms.hflip=0"),
        ("optimizer=1", "no optimizer of that name", "classifier-training train --help all lists them"),
        ("transfer=features", "no transfer of that name", "transfer=linear_probe"),
        ("transfer=probe", "no transfer of that name", "transfer=lp_ft"),
        ("transfer=progressive", "no transfer of that name", "transfer=progressive_unfreezing"),
        ("imbalance=wieghts", "no imbalance of that name", "imbalance=weights"),
        ("+data.nonsense=3", "there is no such setting", "classifier-training train --help all lists them"),
        ("sampler=manual", "sampler.weights is missing", "sampler.weights=…"),
        ("data.root", "not a setting", "data.root=…"),
        ("data.root=a=b", "not a setting", "data.root='\"a=b\"'"),
        ("+model._target_=os.system", "there is no such setting", ""),
        ("data.type=digits", "there is no such setting", ""),
        ("~data.nonsense", "there is no such setting", ""),
        ("trainer.precision=16", "no such choice", "trainer.precision=16-mixed"),
        ("trainer.precision=bf16", "no such choice", "trainer.precision=bf16-mixed"),
        ("trainer.precision=32-true", "no such choice", "trainer.precision=32"),
        ("callbacks.nosuch=null", "there is no such setting", "--help all lists"),
        ("callbacks.emma=null", "there is no such setting", "callbacks.ema=null"),
        ("seed=-1", "below 0", "seed=0"),
        ("seed=99999999999999999999", "not below", "seed=0"),
        ("data.root=", "has no value", "leave it out"),
        ("data=null", "cannot do without data", "data=auto"),
        ("~model", "cannot do without model", "model=auto"),
        ("~model=auto", "model is null", "model=auto"),
        ("data.root=a,b", "several values for one run", "data.root='\"a,b\"'"),
        ('data.root=it\'s="b"', "not a setting", 'data.root=\'"it\'"\'"\'s=\\"b\\""\''),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_right_spelling(override: str, came: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(TRAIN, ["data.root=/x", override])
    assert came in caught.value.came
    assert remedy in caught.value.remedy
    assert len(str(caught.value).splitlines()) == 3
    if override == "callbacks.nosuch=null":
        assert "callbacks.ema, " in caught.value.expected


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
    assert found["model"] == {"type": "resnet18", "pretrained": "auto", "weights": None, "dropout": None}
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
    (tmp_path / "conf/data/lectures.yaml").write_text("defaults: [image_folder]\nroot: /lectures\n")
    (tmp_path / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: lectures\nseed: 7\n"
    )
    found = values("experiment=mine")
    assert found["data"]["root"] == "/lectures"
    assert found["seed"] == 7
    assert "lectures" in group_options(TRAIN)["data"]
    assert compose(TRAIN, ["data=lectures"])["data"].root == "/lectures"


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
    assert compose(entry("verb", "train"), ["data.root=/x", "data.batch_size=8"])["data"].image_size == "auto"


def test_no_callback_and_no_logger_may_be_chosen() -> None:
    for words in (["callbacks=null", "logging=null", "sampler=null"], ["~callbacks"]):
        arguments = compose(TRAIN, ["data.root=/x", *words])
        assert arguments["callbacks"] == {}
    assert arguments["sampler"] is None


def test_a_text_stays_as_it_was_typed() -> None:
    arguments = compose(TRAIN, ["data.root=2024", "name=1.50", "category=true", "model=timm", "model.name=1e3"])
    assert arguments["data"].root == str(Path("2024").absolute())
    assert (arguments["name"], arguments["category"]) == ("1.50", "true")
    assert arguments["model"].keywords["name"] == "1e3"
    assert compose(TRAIN, ["data.root=/x", "name=null"])["name"] is None


def test_other_verbs_have_no_experiments_and_point_to_their_own_help() -> None:
    evaluate = entry("verb", "evaluate")
    assert "experiment" not in group_options(evaluate)
    with pytest.raises(UserError, match="evaluate --help"):
        compose(evaluate, ["nonsense=3"])


def experiment(root: Path, text: str) -> None:
    (root / "conf/experiment").mkdir(parents=True, exist_ok=True)
    (root / "conf/experiment/mine.yaml").write_text(f"# @package _global_\n{text}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaults: [override /model: nothing]", "Could not find 'model/nothing"),
        ("seed: 3\n  a: [", r"mine\.yaml, line 3: not YAML"),
        ("resume: latest", "resume=latest stands in a file"),
        ("seeed: 3", "seeed=3: there is no such setting"),
    ],
)
def test_a_mistake_in_an_experiment_is_blamed_on_its_file(tmp_path: Path, text: str, words: str) -> None:
    experiment(tmp_path, text)
    with pytest.raises(UserError, match=words) as caught:
        compose(TRAIN, ["data.root=/x", "experiment=mine"])
    assert len(str(caught.value).splitlines()) == 3


def test_a_mistake_beside_an_experiment_of_the_users_is_told_as_itself(tmp_path: Path) -> None:
    experiment(tmp_path, "seed: 3")
    with pytest.raises(UserError, match="there is no such setting") as caught:
        values("experiment=mine", "data.root=/x", "optimizer.lrr=1")
    assert caught.value.remedy == "optimizer.lr=1"
    with pytest.raises(UserError, match="no experiment of that name") as caught:
        values("experiment=mien", "data.root=/x")
    assert caught.value.remedy == "experiment=mine"


def test_no_run_to_go_on_with_is_no_run_to_go_on_with() -> None:
    assert values("data.root=/x", "resume=null")["resume"] is None


@pytest.mark.parametrize(
    ("typed", "weights"),
    [
        ("{'a': 3}", {"a": 3.0}),
        ('{"a b": 3, "": 1}', {"a b": 3.0, "": 1.0}),
        ("{猫: 3, größe ß: 2}", {"猫": 3.0, "größe ß": 2.0}),
        ("{it's: 3}", {"it's": 3.0}),
    ],
)
def test_numbers_by_class_take_names_of_every_language(typed: str, weights: dict[str, float]) -> None:
    arguments = compose(
        TRAIN,
        [
            "data.root=/x",
            "sampler=manual",
            f"sampler.weights={typed}",
            f"target.precision={typed}".replace("3", "0.3").replace("2", "0.2").replace("1", "0.1"),
        ],
    )
    assert arguments["sampler"].keywords["weights"] == weights
    assert arguments["target"].precision == {name: value / 10 for name, value in weights.items()}


def test_braces_that_do_not_close_are_refused() -> None:
    for typed in ("{猫: 3", "{'a': {}"):
        with pytest.raises(UserError):
            compose(TRAIN, ["data.root=/x", "sampler=manual", f"sampler.weights={typed}"])


def test_a_setting_may_be_called_like_a_folder_of_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "split").mkdir(parents=True)
    assert compose(entry("registry", "list"), ["model=resnet"])["model"] == "resnet"
    assert compose(entry("verb", "evaluate"), ["split=val"])["split"] == "val"
