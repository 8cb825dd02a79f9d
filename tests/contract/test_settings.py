"""Every setting of `train` says beside its type what the program must know about it."""

from __future__ import annotations

from typing import Annotated

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.resume import on_resume
from classifier_training.core.register import VERB, Choice, Entry, Option, Replaces, entries, entry
from classifier_training.core.settings import Fit, OnlyIn, Resume, Trait

TRAIN = entry(VERB, "train")

VERBS = [item for item in entries() if item.is_verb]


def settings_of(verb: Entry) -> list[tuple[str, Option]]:
    """Every setting of a verb by its dotted key, those of all components of its groups included."""
    found = []
    for name, option in verb.options.items():
        if option.choice is None:
            found.append((name, option))
            continue
        for item in entries(option.choice.group or name):
            above = f"{name}.{item.name}" if option.choice.many else name
            found += [(f"{above}.{part.name}", part) for part in item.options.values()]
    return found


def said_by(option: Option) -> tuple[object, ...]:
    only = option.mark(OnlyIn)
    return option.mark(Resume), option.mark(Fit), option.traits, only and only.verbs


SETTINGS = sorted({key for key, _ in settings_of(TRAIN)})


@pytest.mark.parametrize("key", SETTINGS)
def test_it_says_what_it_does_on_resume_and_which_models_it_acts_on(key: str) -> None:
    assert TRAIN.mark(key, Resume) is not None, f"{key}: add Resume.… to its Annotated type; see core/settings.py"
    assert TRAIN.mark(key, Fit) is not None, f"{key}: add Fit.… to its Annotated type; see core/settings.py"


def test_a_setting_that_says_nothing_is_found_out() -> None:
    def verb(*, data: Annotated[object, Choice("auto")], new: int = 0, old: Annotated[int, Resume.EXACT] = 0) -> None:
        """Do nothing."""

    known = Entry(VERB, "verb", verb)
    assert [known.mark(key, Resume) for key in ("new", "old", "data", "data.root", "data.new")] == [
        None, Resume.EXACT, None, Resume.DIVERGES, None,
    ]  # fmt: skip
    assert on_resume("trainer.new") is Resume.FIXED


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_of_one_name_in_a_group_say_the_same(key: str) -> None:
    assert len({said_by(option) for name, option in settings_of(TRAIN) if name == key}) == 1


def test_settings_act_only_in_verbs_that_take_them() -> None:
    for key, option in settings_of(TRAIN):
        only = option.mark(OnlyIn)
        for verb in only.verbs if only else ():
            assert key.partition(".")[0] in entry(VERB, verb).options, key


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.settings_of], ids=lambda verb: verb.name)
def test_a_verb_of_many_runs_replaces_settings_that_are_there(verb: Entry) -> None:
    keys = {*SETTINGS, *TRAIN.options, *(f"{name}.*" for name, option in TRAIN.options.items() if option.choice)}
    for option in verb.options.values():
        mark = option.mark(Replaces)
        assert mark is None or mark.keys <= keys
    assert sum(Trait.PLACE in option.traits for option in verb.options.values()) == 1
