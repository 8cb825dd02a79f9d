from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from classifier_training import cli
from classifier_training.conf.compose import compose
from classifier_training.conf.overrides import written_instead
from classifier_training.conf.validate import build_arguments
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = entry("verb", "train")


@pytest.mark.parametrize(
    ("verb", "key", "instead"),
    [
        ("compare", "model", "models=…"), ("compare", "data.root", "data=…"), ("compare", "seed", "seeds=…"),
        ("compare", "category", "output=…"), ("compare", "model.dropout", None), ("compare", "optimizer", None),
        ("tune", "name", None), ("tune", "category", "output=…"), ("tune", "seed", None),
        ("distill", "distillation.alpha", "alphas=…"), ("distill", "distillation", "teacher=…"),
        ("distill", "distillation.keep_outputs", "teacher=…"), ("distill", "data.root", None),
        ("distill", "extend", "classifier-training train resume=RUN"),
    ],
)  # fmt: skip
def test_what_a_verb_of_many_runs_sets_itself_is_written_otherwise(verb: str, key: str, instead: str | None) -> None:
    assert written_instead(entry("verb", verb), key) == instead


@pytest.mark.parametrize("verb", ["compare", "tune", "distill"])
def test_the_runs_of_a_verb_are_not_promoted(verb: str) -> None:
    assert "registry promote run=RUN" in str(written_instead(entry("verb", verb), "promote"))


@pytest.mark.parametrize("verb", ["compare", "tune"])
def test_the_same_command_resumes_what_a_search_or_comparison_left(verb: str) -> None:
    assert "the same command again" in str(written_instead(entry("verb", verb), "resume"))


@pytest.mark.parametrize(
    ("verb", "words", "came", "remedy"),
    [
        ("evaluate", ["trainer.max_epochs=3"], "there is no such setting", "evaluate --help all"),
        ("predict", ["trainer.max_epochs=3"], "there is no such setting", "predict --help all"),
        ("train", ["logging.project=x"], "there is no such setting", "logging=wandb logging.wandb.project=x"),
        (
            "train", ["logging=tensorboard", "logging.project=x"], "there is no such setting",
            "'logging=[tensorboard,wandb]' logging.wandb.project=x",
        ),
        ("train", ["sampler.power=1"], "no sampler= is chosen", "sampler=auto sampler.power=1"),
        ("train", ["data=huggingface", "data.root='a b'"], "data=huggingface has no such", "data.name='a b'"),
        ("train", ["optimizer.momentum=0.8"], "optimizer=adamw has no such setting", "optimizer=sgd optimizer.mom"),
        ("registry", ["status=all"], "registry has no settings of its own", "registry --help"),
    ],
)  # fmt: skip
def test_a_setting_of_another_component_or_verb_is_refused_with_advice_that_works(
    verb: str, words: list[str], came: str, remedy: str
) -> None:
    with pytest.raises(UserError, match=came) as caught:
        compose(entry("verb", verb), words)
    assert remedy in caught.value.remedy


def test_a_key_of_a_mapping_is_named_when_its_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"^sampler\.weights\.cat=-2"):
        build_arguments(TRAIN, compose(TRAIN, ["data=digits", "sampler=manual", "sampler.weights={cat: -2}"]))


def test_a_verb_is_a_verb_where_a_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "dogs"):
        (tmp_path / name).mkdir()
    assert cli.find_verb(["train", "."])[0] is TRAIN
    with pytest.raises(UserError, match="dogs: the first word is no verb"):
        cli.find_verb(["dogs"])
