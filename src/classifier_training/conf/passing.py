"""Words on the command line of one verb that set something of another, such as those of `train` behind `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Entry


def split_words(verb: Entry, words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Tell the own words of a verb that passes some on from those that it passes on, as typed."""
    own = [word for word in words if word.lstrip("+~").partition("=")[0] in verb.options]
    return own, tuple(word for word in words if word not in own)


def own_values(verb: Entry, parsed: Sequence[Override]) -> dict[str, Any]:
    """Return the values of a verb that passes words on: it has no groups, so there is nothing to compose.

    Hydra would take such a setting for a group of the other verb where both are called alike, as data is.
    """
    defaults = {name: option.default for name, option in verb.options.items() if not option.required}
    return {**defaults, **{word.key_or_group: word.value() for word in parsed}}
