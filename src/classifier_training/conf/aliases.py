"""Words of other programs for settings: `epochs=5` for `trainer.max_epochs=5`.

A setting says itself what it is also called, by the mark `Alias`, and the help shows it. The many other words are in
`foreign_words.yaml`. A word that means exactly one setting is accepted. One that means something else, or nothing here,
is answered with what to type instead.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from classifier_training.conf.foreign_values import (
    FALSE,
    ForeignWordError,
    Given,
    foreign_words,
    is_own,
    is_run_to_come,
    read_value,
)
from classifier_training.conf.store import EXPERIMENT
from classifier_training.core.errors import nearest
from classifier_training.core.register import VERB, Replaces, entries, entry
from classifier_training.core.settings import Alias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier_training.core.register import Entry, Option


def resolve(verb: Entry, key: str, value: str | None) -> Given | None:
    """Return the settings that another program's word stands for.

    Args:
        verb: that is called.
        key: as typed, without dashes in front.
        value: as typed; None where none was typed or it is not yet known whether the next word is one.

    Returns:
        Keys with their values; a value of None says that the key still waits for one, or is a flag. None where the word
        is no alias, so that it is read as a setting.

    Raises:
        UserError: for a word that has no counterpart, with the words to type instead.
    """
    name = key.replace("-", "_")
    if is_own(verb, key):
        return None if value is None else read_value(verb, key, key, value)
    if is_own(verb, name):
        return [(name, value)] if value is None else read_value(verb, name, key, value) or [(name, value)]
    target = _target(verb, name)
    switch = foreign_words()["switches"].get(name)
    if switch is not None and (target is None or value is None) and _acts(verb, switch.partition("=")[0]):
        return _switched(switch, value)
    if target is not None:
        return [(target, None)] if value is None else read_value(verb, target, key, value) or [(target, value)]
    if name == EXPERIMENT and value and _acts(verb, "name") and is_run_to_come(value):
        raise ForeignWordError(verb, key, value, "name=, for the folder of the run", [f"name={value}"])
    told = _told(verb, name) or (_told(verb, name.rpartition(".")[2]) if _in_group(name) else None)
    if told is None:
        return None
    if value is None and name not in foreign_words()["flags"]:
        return [(key, None)]
    words = [word.replace("{value}", value or "") for word in told.get("here", "").split()]
    raise ForeignWordError(verb, key, value, told["why"], words)


def names_of(verb: Entry, key: str) -> list[str]:
    """List the words that the help shows for a setting of a verb: the first that it says of itself, if there is one."""
    marks = [mark for option in verb.settings_at(key) if (mark := option.mark(Alias))]
    return list(dict.fromkeys(mark.words[0] for mark in marks))


def short_words(verb: Entry) -> list[str]:
    """List the words that settings of a verb say they are also called by."""
    return sorted(_said_of_itself(verb))


def is_answered(verb: Entry, key: str) -> bool:
    """Whether a word is one of those that are answered with what to type instead."""
    return _told(verb, key.replace("-", "_")) is not None


def nearest_short_word(verb: Entry, key: str) -> str | None:
    """Return the short word that a misspelt key is nearest to, such as epochs for epcohs; None if a key is nearer."""
    short = short_words(verb)
    close = nearest(key.replace("-", "_"), [*short, *_last_parts(verb), *(name for name, _ in _settings(verb))])
    return close[0] if close and close[0] in short else None


# What a word means.


def _target(verb: Entry, name: str) -> str | None:
    """The setting that a word means, and that has an effect in the verb."""
    wanted = [target for target, words in foreign_words()["accepted"].items() if name in words]
    wanted = [*_said_of_itself(verb).get(name, []), *wanted]
    found = next((target for target in wanted if _acts(verb, target)), None)
    if found is not None or _told(verb, name) is not None:
        return found
    if _in_group(name):
        # transforms.rotate: what the last part means is in this group.
        group, _, last = name.rpartition(".")
        target = _target(verb, last)
        return target if target is not None and target.startswith(f"{group}.") else None
    return _last_parts(verb).get(name)


def _in_group(name: str) -> bool:
    group, dot, _ = name.rpartition(".")
    return bool(dot) and group in {known.group for known in entries()}


def _acts(verb: Entry, target: str) -> bool:
    """Whether a setting has an effect in a verb, and no other one of the verb's stands in its place."""
    replaced = {key for option in verb.options.values() if (mark := option.mark(Replaces)) for key in mark.keys}
    if target not in verb.options and replaced & {target, f"{target.partition('.')[0]}.*"}:
        return False
    trained = verb.settings_of.verb if verb.settings_of else verb.name
    return any(option.acts_in(trained) and option.fixed is None for option in verb.settings_at(target))


@functools.cache
def _said_of_itself(verb: Entry) -> dict[str, list[str]]:
    """The words of the marks `Alias`, each with the keys of its settings."""
    found: dict[str, list[str]] = {}
    for key, option in _settings(verb):
        mark = option.mark(Alias)
        for word in mark.words if mark else ():
            found.setdefault(word, []).append(key)
    return found


@functools.cache
def _last_parts(verb: Entry) -> dict[str, str]:
    """The last part of each key of a group, such as label_smoothing, where one setting alone ends in it.

    Settings of a group that nothing is chosen from unless it is typed, such as logging, are meant by their whole keys.
    """
    found: dict[str, set[str]] = {}
    for key, _ in _settings(verb):
        groups = [option.choice for option in verb.settings_at(key.partition(".")[0]) if option.choice]
        if "." in key and all(choice.default is not None for choice in groups):
            found.setdefault(key.rpartition(".")[2], set()).add(key)
    return {last: next(iter(keys)) for last, keys in found.items() if len(keys) == 1}


def _settings(verb: Entry) -> Iterator[tuple[str, Option]]:
    """The settings that have an effect in a verb by their keys, those of all components of its groups among them."""
    for name, option in verb.options.items():
        if option.choice is None:
            yield name, option
            continue
        for item in [option.fixed] if option.fixed else entries(name):
            above = f"{name}.{item.name}" if option.choice.many else name
            yield from ((f"{above}.{part.name}", part) for part in item.options.values() if part.acts_in(verb.name))
    if verb.settings_of is not None:
        for key, option in _settings(entry(VERB, verb.settings_of.verb)):
            if key not in verb.options:
                yield key, option


def _told(verb: Entry, name: str) -> dict[str, Any] | None:
    trained = verb.settings_of.verb if verb.settings_of else verb.command
    return next(
        (
            told
            for told in foreign_words()["answered"]
            if name in told["words"] and (not told.get("verbs") or {verb.command, trained} & set(told["verbs"]))
        ),
        None,
    )


def _switched(switch: str, value: str | None) -> Given:
    target, _, turned_on = switch.partition("=")
    return [] if value is not None and value.casefold() in FALSE else [(target, turned_on)]
