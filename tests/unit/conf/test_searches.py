"""Search spaces and the words that one verb passes on to another."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.conf.multirun import sweep
from classifier_training.conf.searches import family_of, read_families, ready_models, representatives
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry


def write(name: str, text: str) -> None:
    path = Path("conf/search") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_model_that_trains_as_it_is_has_a_family() -> None:
    families = read_families()
    named = {name for family in families.values() for name in family.models}
    assert set(ready_models()) <= named
    assert {"cnn_v1", "cnn_v2", "student", "resnet18", "tf_efficientnet_lite0"} <= set(representatives(families))


def test_every_end_of_a_space_is_a_value_that_train_takes() -> None:
    families = read_families()
    for model in representatives(families):
        _, family = family_of(model, search=None)
        for place in (0, -1):
            words = [f"{key}={str(parameter.ends()[place]).lower()}" for key, parameter in family.space.items()]
            compose(entry("verb", "train"), [f"model={model}", "data=digits", *words])


def test_the_users_space_takes_the_place_of_ours_and_may_name_a_model_anew() -> None:
    write("small", "models: [cnn_v1]\nspace: {model.dropout: {low: 0.1, high: 0.2}}")
    assert list(family_of("cnn_v1", search=None)[1].space) == ["model.dropout"]
    write("mine", "models: [cnn_v2]\nspace: {model.depth: {low: 1, high: 3}}")
    name, family = family_of("cnn_v2", search=None)
    assert name == "mine"
    assert family.space["model.depth"].is_whole
    assert family_of("my_own_model", search=None)[0] == "any"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [a]\nspace: {x: {low: 2, high: 1}}", "conf/search/bad.yaml: space.x: .*low < high"),
        ("models: [a]\nspace: {x: {low: 0, high: 1, log: true}}", "space.x: .*values above 0"),
        ("models: [a]\nspace: {x: {choices: [1]}}", "space.x: .*two or more"),
        ("models: [a]\nspace: {x: {lowest: 1}}", "space.x.lowest: there is no such key"),
        ("models: [a]\nspace: {}", "bad.yaml: space:"),
        ("models: [a\n", "bad.yaml: not YAML"),
    ],
)
def test_a_wrong_space_is_named(text: str, message: str) -> None:
    write("bad", text)
    with pytest.raises(UserError, match=message):
        read_families()


def test_an_unknown_space_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="there is no search space of that name") as found:
        family_of("cnn_v1", search="smal")
    assert found.value.remedy == "search=small"


def test_words_of_train_are_passed_on_and_the_verbs_own_are_not() -> None:
    arguments = compose(entry("verb", "compare"), ["models=[cnn_v1]", "data=digits", "data.image_size=16", "jobs=2"])
    assert arguments["settings"] == ("data.image_size=16",)
    assert arguments["jobs"] == 2
    with pytest.raises(UserError, match="jobs=0"):
        compose(entry("verb", "compare"), ["jobs=0"])


def test_multirun_is_for_verbs_that_make_one_run() -> None:
    with pytest.raises(UserError, match="compare, which makes a run of each of its settings by itself"):
        sweep(entry("verb", "compare"), ["models=[cnn_v1]"], print)
