"""Recipes choose presets of other groups; experiments and typed words go over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose, compose_values
from classifier_training.conf.help import overview, verb_help
from classifier_training.conf.multirun import sweep
from classifier_training.conf.recipes import choose_recipe, model_words, recipe_words
from classifier_training.conf.store import group_options
from classifier_training.core.errors import UserError
from classifier_training.core.register import Entry, describe, entry
from classifier_training.workflows.completion import candidates

TRAIN = entry("verb", "train")
RECIPES = ["auto", "fast", "finetune", "jersey", "longtail", "none", "scratch", "slides", "tiny"]


def values(*words: str) -> dict[str, Any]:
    return compose_values(TRAIN, ["data.root=/x", *words])


def test_the_weights_choose_the_recipe() -> None:
    assert values()["recipe"] == values("model=resnet18")["recipe"] == "finetune"
    assert values("model.pretrained=false")["recipe"] == "scratch"
    assert values("model.pretrained=false", "model.weights=/w.safetensors")["recipe"] == "finetune"
    assert values("model=student")["recipe"] == "scratch"
    assert values("model=student", "init_from=latest")["recipe"] == "finetune"
    assert values("recipe=tiny", "model.pretrained=true")["recipe"] == "tiny"
    assert choose_recipe({"model": {}, "init_from": "latest"})[0] == "finetune"


def test_a_network_of_timm_without_trained_weights_starts_from_scratch() -> None:
    def recipe(name: str, *words: str) -> str:
        return str(values("model=timm", f"model.name={name}", *words)["recipe"])

    untrained = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    assert recipe("test_resnet") == recipe("timm/test_resnet.r160_in1k") == "finetune"
    assert recipe("test_resnet", "model.pretrained=false") == "scratch"
    assert recipe(untrained) == "scratch"
    assert recipe(untrained, "model.weights=/w.safetensors") == "finetune"


def test_auto_is_a_trained_network_for_the_users_data_and_a_plain_one_for_the_sample() -> None:
    plain = {"pretrained": "auto", "weights": None, "dropout": None}
    for words in ((), ("model=auto",), ("experiment=local",)):
        assert values(*words)["model"] == {"type": "tf_efficientnet_lite0", **plain}
    assert values("model.dropout=0.2")["model"]["dropout"] == 0.2
    for typed in ([], ["data=digits"], ["data=digits", "model=auto"], ["experiment=local"]):
        found = compose_values(TRAIN, typed)
        assert found["model"] == {"type": "resnet18", **plain, "pretrained": False}
        assert found["recipe"] == "scratch"
    assert compose_values(TRAIN, ["model.pretrained=true"])["model"]["pretrained"] is True
    assert compose_values(TRAIN, ["model=cnn_v1"])["model"]["type"] == "cnn_v1"
    assert compose_values(TRAIN, ["model=resnet50"])["model"]["pretrained"] is False
    assert compose_values(TRAIN, ["data=slides"])["model"]["pretrained"] == "auto"


def test_the_name_of_a_run_may_be_that_of_its_data(tmp_path: Path) -> None:
    assert values("name=auto")["name"] == "x"
    assert values("name=mine")["name"] == "mine"
    assert compose_values(TRAIN, ["name=auto"])["name"] == "digits"
    for root, name in (("/my/Photos of 2026/", "Photos_of_2026"), (".", tmp_path.name), ("[/a/one,/b/two]", "one_two")):
        found = compose_values(TRAIN, ["name=auto", f"data.root={root}" if "[" in root else f"data.root='{root}'"])
        assert found["name"] == name
    assert (
        compose_values(TRAIN, ["name=auto", "data=torchvision", "data.name=CIFAR10"])["name"] == "torchvision_CIFAR10"
    )


def test_both_networks_of_auto_have_the_same_settings() -> None:
    lite, plain = (entry("model", name).options for name in ("tf_efficientnet_lite0", "resnet18"))
    assert {name: option.default for name, option in lite.items()} == {
        name: option.default for name, option in plain.items()
    }


def test_the_network_is_named_with_the_reason_for_it() -> None:
    words = "tf_efficientnet_lite0, what model=auto takes for images of your own: its ImageNet weights come with this"
    assert model_words(values()) == f"{words} package"
    sample = compose_values(TRAIN, [])
    assert model_words(sample) == "resnet18, what model=auto takes for the built-in sample, from random weights"
    assert model_words(values("model=resnet18")) == "resnet18"
    assert model_words(values("model=timm", "model.name=test_resnet", "recipe=none")) == "timm test_resnet"


def test_the_reason_is_said_where_the_weights_would_have_chosen_the_recipe() -> None:
    assert recipe_words(values("model=student")) == "scratch, for a network that starts from random weights"
    assert recipe_words(values("model.pretrained=true")) == "finetune, for a network that starts from trained weights"
    assert recipe_words(values("recipe=finetune", "model=student")) == "finetune"
    assert recipe_words(values("recipe=tiny", "model.pretrained=true")) == "tiny"


def test_composing_says_nothing_of_the_recipe(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    values()
    assert "recipe" not in caplog.text


def test_without_a_recipe_all_is_as_the_signatures_say() -> None:
    found = values("recipe=none")
    assert found.pop("recipe") == "none"
    for group in ("optimizer", "loss", "scheduler", "transforms", "imbalance", "trainer"):
        known = entry(group, found[group].pop("type"))
        assert found[group] == {name: option.default for name, option in known.options.items()}, group


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in ("auto", "none")])
def test_each_recipe_builds_and_changes_something(recipe: str) -> None:
    found, plain = values(f"recipe={recipe}"), values("recipe=none")
    assert {key for key in plain if found[key] != plain[key]} > {"recipe"}
    assert compose(TRAIN, ["data.root=/x", f"recipe={recipe}"])["recipe"] == recipe


def test_slides_and_jersey_have_the_settings_of_the_systems_they_replace() -> None:
    slides = values("recipe=slides")
    assert slides["model"]["type"] == "mobilenetv4_conv_medium"
    assert slides["imbalance"] == {"type": "weights", "beta": None}
    colour = ("brightness", "contrast", "saturation", "hue", "crop_scale", "rotation_degrees", "hflip")
    assert [slides["transforms"][name] for name in colour] == [0.1, 0.1, 0.1, 0.05, 1.0, 0.0, 0.0]
    assert slides["optimizer"]["type"] == "adamw"
    assert slides["optimizer"]["weight_decay"] == 1e-4
    assert slides["scheduler"]["type"] == "plateau"
    stopping = {"type": "early_stopping", "monitor": "val/loss", "patience": 10, "min_delta": 0.001}
    assert slides["callbacks"]["early_stopping"] == stopping
    assert slides["monitor"] == "val/acc_top1"
    assert (slides["data"]["batch_size"], slides["trainer"]["max_epochs"]) == (64, 50)
    jersey = values("recipe=jersey")
    assert (jersey["model"]["type"], jersey["model"]["pretrained"]) == ("resnet18", "auto")
    assert jersey["imbalance"]["type"] == "sampler"
    assert jersey["loss"]["label_smoothing"] == 0.1
    assert jersey["scheduler"]["type"] == "cosine"
    assert jersey["scheduler"]["warmup_fraction"] > 0
    assert jersey["callbacks"]["ema"]["type"] == "ema"
    assert jersey["transforms"]["hflip"] == 0
    local = values("experiment=jersey_ocr_resnet18_local")
    for same in (
        "model",
        "transforms",
        "loss",
        "optimizer",
        "scheduler",
        "imbalance",
        "callbacks",
        "trainer",
        "recipe",
    ):
        assert local[same] == jersey[same], same


def test_words_go_over_the_network_and_the_score_of_a_recipe() -> None:
    found = values(
        "recipe=slides", "model=tf_efficientnet_lite0", "monitor=val/macro_f1", "data.batch_size=96",
        "optimizer.lr=5e-4", "callbacks.early_stopping.patience=15",
    )  # fmt: skip
    assert found["model"]["type"] == "tf_efficientnet_lite0"
    assert (found["monitor"], found["data"]["batch_size"], found["optimizer"]["lr"]) == ("val/macro_f1", 96, 5e-4)
    assert found["callbacks"]["early_stopping"]["monitor"] == "val/loss"
    assert found["callbacks"]["early_stopping"]["patience"] == 15
    assert values("recipe=slides", "optimizer=sgd")["optimizer"]["weight_decay"] == 5e-4
    assert values("recipe=slides", "model=auto")["model"]["type"] == "tf_efficientnet_lite0"
    assert values("recipe=slides", "model=timm", "model.name=test_resnet")["model"]["name"] == "test_resnet"


def test_a_typed_group_takes_the_recipes_preset_away_whole() -> None:
    found = values("recipe=tiny", "transforms=none", "loss=focal", "optimizer=sgd", "callbacks=[checkpoint]")
    assert found["transforms"] == values("recipe=none", "transforms=none")["transforms"]
    assert found["loss"] == {"type": "focal", "gamma": 2.0}
    assert found["optimizer"] == values("recipe=none", "optimizer=sgd")["optimizer"]
    assert list(found["callbacks"]) == ["checkpoint"]
    assert found["trainer"]["max_epochs"] == 100


def test_typed_settings_go_over_the_recipe() -> None:
    found = values("recipe=tiny", "trainer.max_epochs=3", "loss.label_smoothing=0", "callbacks.ema=null")
    assert found["trainer"]["max_epochs"] == 3
    assert found["loss"]["label_smoothing"] == 0
    assert found["callbacks"]["ema"] is None


def test_an_experiment_goes_over_the_recipe_and_may_choose_one(tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    text = (
        "# @package _global_\ndefaults: [override /recipe: tiny, override /transforms: color]\ntrainer: {max_epochs: 7}"
    )
    (tmp_path / "conf/experiment/mine.yaml").write_text(text)
    found = values("experiment=mine")
    assert (found["recipe"], found["trainer"]["max_epochs"], found["loss"]["label_smoothing"]) == ("tiny", 7, 0.1)
    assert found["transforms"] == values("recipe=none", "transforms=color")["transforms"]
    assert values("experiment=mine", "recipe=slides")["recipe"] == "slides"


def test_recipes_of_the_users_own_are_offered(tmp_path: Path) -> None:
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/ours.yaml").write_text("# @package _global_\nseed: 5\n")
    found = values("recipe=ours")
    assert (found["recipe"], found["seed"]) == ("ours", 5)
    assert group_options(TRAIN)["recipe"] == sorted([*RECIPES, "ours"])


def test_names_are_in_the_help_and_completed_and_a_wrong_one_is_told() -> None:
    for text in (overview("1"), verb_help(TRAIN)):
        assert "auto (default) | fast | finetune" in text
    assert candidates("classifier-training train recipe=lo") == ["recipe=longtail "]
    with pytest.raises(UserError, match="no recipe of that name") as caught:
        values("recipe=longtial")
    assert caught.value.remedy == "recipe=longtail"


def test_each_run_of_a_sweep_has_its_own_recipe() -> None:
    seen: list[tuple[str, float]] = []
    models: list[str] = []

    def record(**arguments: Any) -> str:
        seen.append((arguments["recipe"], arguments["optimizer"].keywords["lr"]))
        models.append(describe(arguments["model"])["type"])
        return "done"

    recording = Entry("verb", "train", record)
    recording.__dict__["options"] = TRAIN.options
    assert sweep(recording, ["data.root=/x", "model.pretrained=true,false"], lambda _: None) == 0
    assert seen == [("finetune", 5e-4), ("scratch", 2e-3)]
    seen.clear()
    assert sweep(recording, ["data.root=/x", "recipe=none,finetune", "model.pretrained=false"], lambda _: None) == 0
    assert seen == [("none", 1e-3), ("finetune", 5e-4)]
    models.clear()
    assert sweep(recording, ["data.root=/x", "model=auto,student"], lambda _: None) == 0
    assert models == ["tf_efficientnet_lite0", "student"]


def test_the_network_of_the_run_whose_weights_are_taken_is_trained(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("model: {type: cnn_v1, residual: true, num_convolutions: 3}\n")
    origin = f"init_from={tmp_path / 'run'}"
    assert values(origin)["model"] | {"dropout": 0} == {
        "type": "cnn_v1", "residual": True, "num_convolutions": 3, "dropout": 0,
    }  # fmt: skip
    assert values(origin, "model=resnet18")["model"]["type"] == "resnet18"
    assert values(f"init_from={tmp_path}")["model"]["type"] == values()["model"]["type"]
