"""Words as they are typed, made fit for Hydra."""

from __future__ import annotations

import shlex
import typing
from typing import TYPE_CHECKING, Annotated, Any

from classifier_training.conf.check import parse_overrides
from classifier_training.core.errors import UserError
from classifier_training.core.register import entries
from classifier_training.core.runtime import setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Entry


def prepare(verb: Entry, words: Sequence[str]) -> list[str]:
    """Return the same settings in words that Hydra composes.

    A text that looks like a number or like true stays the text that was typed, and a group may be set to null.

    Raises:
        UserError: for a word that is no setting, has no value, or takes away what the verb cannot do without.
    """
    return [_prepare(verb, override) for override in parse_overrides(name_word(verb, words))]


def name_word(verb: Entry, words: Sequence[str]) -> list[str]:
    """Put its key before the first word that has none, where the verb has a setting for such a word."""
    name = next((option.name for option in verb.options.values() if option.is_word), None)
    bare = next((place for place, text in enumerate(words) if "=" not in text), None)
    if name is None or bare is None:
        return list(words)
    return [*words[:bare], word(name, words[bare]), *words[bare + 1 :]]


def word(key: str, value: object) -> str:
    """Return key=value, quoted for the configuration's grammar alone: no shell sees it."""
    return shlex.split(setting(key, value))[0]


def _prepare(verb: Entry, override: Override) -> str:
    line, key = override.input_line or "", override.key_or_group
    value = override.value()
    if line.endswith("=") and value == "":
        raise UserError(
            f"{line} has no value",
            "something after the equals sign; a shell variable that is not set leaves nothing",
            f"{key}=…, or leave it out",
        )
    option = verb.options.get(key)
    if option is not None and option.choice is not None:
        if option.fixed is not None:
            return line
        if value is not None:
            return line
        if option.choice.default is not None and not option.choice.many:
            raise UserError(
                f"{line}: {verb.command} cannot do without {key}",
                f"one {key} of those that classifier-training {verb.command} --help lists",
                f"{key}={option.choice.default}",
            )
        return f"{key}=[]"
    if isinstance(value, (bool, int, float)) and not override.is_sweep_override() and _takes_text(verb, key):
        return f"{key}='{line.partition('=')[2].strip()}'"
    return line


def _takes_text(verb: Entry, key: str) -> bool:
    group, _, name = key.rpartition(".")
    components = entries(group.partition(".")[0]) if group else [verb]
    annotations = [item.options[name].annotation for item in components if name in item.options]
    return bool(annotations) and all(map(_is_text, annotations))


def _is_text(annotation: Any) -> bool:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return _is_text(arguments[0])
    return annotation is str or (bool(arguments) and all(item is type(None) or _is_text(item) for item in arguments))
