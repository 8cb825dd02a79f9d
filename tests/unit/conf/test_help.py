from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from classifier_training import cli
from classifier_training.conf.command_line import read_words
from classifier_training.conf.compose import compose
from classifier_training.conf.help import overview, settings_of, short_help, verb_help
from classifier_training.conf.overrides import parse_overrides
from classifier_training.conf.resume import resumed_run
from classifier_training.conf.validate import type_words, value_words
from classifier_training.core.errors import UserError
from classifier_training.core.register import MISSING, Entry, entries, entry
from classifier_training.core.runtime import command
from classifier_training.workflows.completion import candidates, completion

COMMANDS = [one for verb in entries("verb") for one in (verb, *entries(verb.name))]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (Annotated[int, Field(ge=1)], "int >= 1"),
        (Annotated[int, Field(ge=0, lt=2**63)], "int >= 0"),
        (Annotated[float, Field(gt=0, lt=1)] | None, "float > 0, < 1 | null"),
        (Literal["a", "b", 3], "a | b | 3"),
        (int | Literal["auto"], "int | auto"),
        (list[str], "list[str]"),
        (dict[str, float], "dict[str, float]"),
        (Annotated[timedelta, Field(gt=timedelta(0))], "duration (90s, 10m, 1h30m, HH:MM:SS) > 0 s"),
        (bool, "bool"),
    ],
)
def test_types_are_written_as_python_does(annotation: object, words: str) -> None:
    assert type_words(annotation) == words


def test_values_are_written_as_they_are_typed() -> None:
    assert [value_words(value) for value in (None, True, 0.001, 0.0, "x", MISSING)] == [
        "null", "true", "0.001", "0", "x", "required",
    ]  # fmt: skip


def test_the_overview_names_every_verb_group_and_setting() -> None:
    text = overview("1.2.3")
    for verb in entries("verb"):
        assert f"\n  {verb.name} " in text or f"\n  {verb.name}\n" in text
        assert all(f"    {name}=" in text for name, option in verb.options.items() if option.choice is None)
    for name in ("auto (default)", "experiment", "--multirun"):
        assert name in text


def test_the_help_of_train_names_every_component_and_setting_with_a_sentence() -> None:
    train = entry("verb", "train")
    text = verb_help(train)
    for item in (item for item in entries() if item.group in train.options):
        assert f"{item.group}={item.name}: {item.summary[:40]}" in text
        for option in item.options.values():
            assert f"{item.group}.{option.name}=" in text or f"{item.group}.{item.name}.{option.name}=" in text
            assert option.help, f"{item.group}={item.name}: {option.name} has no sentence in Args"
    assert max(map(len, text.splitlines())) <= 160


def test_the_first_help_is_a_line_for_each_verb_and_imports_nothing_of_them() -> None:
    lines = cli.overview().splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    assert all(sum(line.startswith(f"  {verb} ") for line in lines) == 1 for verb in cli.VERBS)
    assert sorted(cli.VERBS) == [verb.name for verb in entries("verb")]
    code = (
        "import sys; from classifier_training import cli; print(cli.run(['--help']), "
        "[name for name in ('torch', 'hydra', 'omegaconf', 'numpy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("verb", COMMANDS, ids=lambda verb: verb.command)
def test_the_short_help_has_examples_that_are_understood_and_the_settings_used_most(
    verb: Entry, tmp_path: Path
) -> None:
    text = short_help(verb)
    assert text.startswith(f"usage: classifier-training {verb.command} [") or not verb.options
    assert verb.examples
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    for example in verb.examples:
        assert f"\n  {command(example)}\n" in f"{text}\n"
        called, words = cli.find_verb(shlex.split(example))
        assert called.command.startswith(verb.command)
        settings = read_words(called, words)
        if not resumed_run(parse_overrides(settings)):  # that needs the run
            compose(called, settings)
    rows = re.findall(r"^  ([a-z_.]+)=", text.partition("settings")[2], re.MULTILINE)
    assert len(rows) <= 10
    assert all(verb.settings_at(key) for key in rows)
    assert rows[: len(verb.words)] == verb.words
    assert ("--help all" in text) == (len(dict(settings_of(verb))) > len(rows) or bool(entries(verb.name)))
    assert max(map(len, text.splitlines())) <= 100


def test_the_short_help_of_train_has_the_short_words() -> None:
    text = short_help(entry("verb", "train"))
    for row in (
        "data.root=null",
        "model=auto",
        "trainer.max_epochs=30, epochs",
        "optimizer.lr=0.001, lr",
        "resume=null",
    ):
        assert f"\n  {row} " in text


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ("help", "classifier-training 0"), ("-h", "classifier-training 0"),
        ("help train", "usage: classifier-training train"), ("train help", "usage: classifier-training train"),
        ("train x.jpg -h", "usage: classifier-training train"),
        ("registry help", "usage: classifier-training registry"),
        ("registry show help", "usage: classifier-training registry show"),
    ],
)  # fmt: skip
def test_help_may_be_asked_for_in_many_ways(words: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(words.split()) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(start)
    assert cli.run([*words.split(), "all"]) == 0
    everything = capsys.readouterr().out
    assert everything.startswith(start)
    assert everything != shown


def test_a_path_in_the_place_of_the_verb_is_answered_with_train() -> None:
    with pytest.raises(UserError) as caught:
        cli.run(["./My Photos", "--epochs", "5"])
    assert caught.value.remedy == f"{command('train')} './My Photos' --epochs 5"


def test_lines_are_completed() -> None:
    assert candidates("classifier-training tr") == ["train "]
    assert candidates("classifier-training train model=resnet18") == ["model=resnet18 "]
    assert candidates("classifier-training train optimizer.w") == ["optimizer.weight_decay="]
    assert candidates("classifier-training train optimizer=sgd optimizer.mo") == ["optimizer.momentum="]
    assert candidates("classifier-training train model=nothing data.") == []
    assert candidates("classifier-training nothing x") == []


def test_values_flags_runs_and_short_words_are_completed() -> None:
    assert candidates("classifier-training evaluate la") == ["latest "]
    assert candidates("classifier-training evaluate split=v") == ["split=val "]
    assert candidates("classifier-training predict --qu") == ["--quiet "]
    assert candidates("classifier-training predict x.jpg --run l") == ["latest "]
    assert candidates("classifier-training predict x.jpg --output o") == []
    assert candidates("classifier-training train --ep") == ["--epochs="]
    assert candidates("classifier-training train --model resnet5") == ["resnet50 "]
    assert candidates("classifier-training registry show be") == ["best "]
    assert candidates("classifier-training compare --mod")[:2] == ["--models=", "--model="]


def test_bash_completes_through_the_script(tmp_path: Path) -> None:
    program = (
        completion(shell="bash")
        + """
COMP_LINE="classifier-training train model=resnet5"; COMP_POINT=${#COMP_LINE}
COMP_WORDS=(classifier-training train model = resnet5)
_classifier_training; printf '%s|' "${COMPREPLY[@]}"
COMP_LINE="classifier-training inf"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(classifier-training inf)
_classifier_training; printf '%s|' "${COMPREPLY[@]}"
"""
    )
    program += """
COMP_LINE="classifier-training train da"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(classifier-training train da)
_classifier_training; printf '%s|' "${COMPREPLY[@]: -2}"
COMP_LINE="classifier-training train ./da"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(classifier-training train ./da)
_classifier_training; printf '%s|' "${#COMPREPLY[@]}"
"""
    (tmp_path / "data of 2026").mkdir()
    (tmp_path / "data.csv").touch()
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True, env=os.environ, cwd=tmp_path
    )
    # The last: nothing of the program's, so that bash completes the path.
    assert done.stdout == "resnet50 |info |data\\ of\\ 2026/|data.csv|0|"


@pytest.mark.parametrize("verb", entries("verb"), ids=lambda verb: verb.name)
def test_every_verb_has_help_with_all_its_settings(verb: Entry) -> None:
    text = verb_help(verb)
    for option in verb.options.values():
        if option.choice is None:
            assert f"  {option.name}=" in text
        elif option.fixed is None:
            assert all(f"{option.name}={item.name}: " in text for item in entries(option.name))


def test_the_help_of_a_verb_lists_the_settings_of_its_fixed_components() -> None:
    text = verb_help(entry("verb", "predict"))
    assert "  data.batch_size=32" in text
    assert "  trainer.accelerator=auto" in text
    assert "predict_data" not in text
    assert "data.batch_size=32" in overview("1")


def test_an_evaluation_offers_data_and_no_experiment() -> None:
    text = verb_help(entry("verb", "evaluate"))
    assert "data: the data set" in text
    assert "data.on_error=raise" in text
    assert "experiment" not in text
