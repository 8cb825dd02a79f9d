from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.api import _words, train
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry

TRAIN = entry("verb", "train")


def composed(settings: dict[str, Any]) -> dict[str, Any]:
    return compose(TRAIN, _words(TRAIN, settings))


@pytest.mark.parametrize(
    ("settings", "group", "name", "value"),
    [
        ({"bs": 16}, "data", "batch_size", 16),
        ({"bs": "16"}, "data", "batch_size", 16),
        ({"optimizer.learning_rate": 0.01}, "optimizer", "lr", 0.01),
        ({"data": {"image_size": 64}}, "data", "image_size", 64),
        ({"data.image_size": np.int64(64)}, "data", "image_size", 64),
        (
            {"sampler": "manual", "sampler.weights": {"cat": 4, "写 真": 2}},
            "sampler",
            "weights",
            {"cat": 4, "写 真": 2},
        ),
        ({"sampler": "manual", "sampler.weights": "{cat: 4}"}, "sampler", "weights", {"cat": 4}),
    ],
)
def test_settings_are_read_as_on_the_command_line(
    settings: dict[str, Any], group: str, name: str, value: object
) -> None:
    component = composed(settings)[group]
    made_later = isinstance(component, functools.partial)
    assert (component.keywords[name] if made_later else getattr(component, name)) == value


@pytest.mark.parametrize(("value", "kept"), [("null", "null"), ("2026", "2026"), (Path("a, b"), "a, b"), ("[", "[")])
def test_a_text_stays_the_text_that_it_is(value: object, kept: str) -> None:
    assert composed({"output": value})["output"] == kept


def test_a_value_of_a_type_that_no_setting_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.image_size is of the type ndarray"):
        composed({"data.image_size": np.zeros(2)})


def test_a_nested_setting_that_there_is_not_is_said_with_its_key() -> None:
    with pytest.raises(UserError, match=r"data\.image_sise"):
        composed({"data": {"image_sise": 64}})


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ({"image_size": 64}, 'settings={"data.image_size": 64}'),
        ({"lr": 0.1}, 'settings={"optimizer.lr": 0.1}'),
        ({"resume": "latest"}, 'settings={"resume": "latest"}'),
        ({"outputs": "runs"}, "output=…"),
        ({"nonsense": 3}, "classifier-training train --help all   lists the settings"),
    ],
)
def test_an_argument_that_there_is_not_is_answered_with_its_setting(argument: dict[str, Any], remedy: str) -> None:
    with pytest.raises(UserError, match="has no such argument") as caught:
        train(**argument)
    assert caught.value.remedy == remedy
    assert isinstance(caught.value, TypeError)


def test_the_arguments_of_train_are_those_that_it_names() -> None:
    assert list(inspect.signature(train).parameters) == [
        "data",
        "epochs",
        "time",
        "model",
        "seed",
        "output",
        "settings",
    ]


def test_data_that_is_no_path_is_refused_without_being_printed() -> None:
    with pytest.raises(UserError, match=r"data is of the type ndarray\n.*path of a folder.*\n.*to_csv"):
        train(np.zeros((100, 2)))  # type: ignore[arg-type]
