"""Words on the command line of one verb that set something of another, such as those of `train` behind `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Entry


def takes_others(verb: Entry) -> str | None:
    """Return the parameter of a verb that is given another verb's settings, if it has one."""
    return next((option.name for option in verb.options.values() if option.passed_on), None)


def split_words(verb: Entry, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into the verb's own and those that it passes on, as typed."""
    name = takes_others(verb)
    if name is None:
        return list(words), []
    own = [word for word in words if _is_own(verb, word.lstrip("+~").partition("=")[0], name)]
    return own, [word for word in words if word not in own]


def own_values(verb: Entry, parsed: Sequence[Override]) -> dict[str, Any]:
    """Return the values of a verb that passes words on: it has no groups, so there is nothing to compose.

    Hydra would take such a setting for a group of the other verb where both are called alike, as data is.
    """
    defaults = {name: option.default for name, option in verb.options.items() if not option.required}
    return {**defaults, **{word.key_or_group: word.value() for word in parsed}}


def _is_own(verb: Entry, key: str, passing: str) -> bool:
    return key in verb.options and key != passing
