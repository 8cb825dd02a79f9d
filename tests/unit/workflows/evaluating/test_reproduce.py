from __future__ import annotations

import shlex

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.register import describe, entry
from classifier_training.workflows.evaluating.finished import train_command
from classifier_training.workflows.training.settings import plain

TRAIN = entry("verb", "train")


@pytest.mark.parametrize(
    "words",
    [
        ["data=digits", "recipe=longtail", "seed=3"],
        [
            "data.root=/some where/$x", "model=timm", "model.name=test_resnet", "optimizer.lr=0.0004",
            "callbacks=[checkpoint,onnx_export]", "callbacks.checkpoint.every_seconds=5", "sampler=null",
        ],
        ["data=digits", "logging=[tensorboard]", "callbacks.ema=null", "transforms=trivial", "monitor=val/loss"],
    ],
)  # fmt: skip
def test_the_command_gives_the_configuration_again(words: list[str]) -> None:
    config = plain(describe(compose(TRAIN, words)))
    typed = shlex.split(train_command(config))
    assert typed[:2] == ["classifier-training", "train"]
    again = plain(describe(compose(TRAIN, typed[2:])))
    assert {**again, "recipe": None} == {**config, "recipe": None}
