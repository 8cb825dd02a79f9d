"""Words of other tools for settings: `epochs=5` for `trainer.max_epochs=5`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from classifier_training.core.register import entries

if TYPE_CHECKING:
    from classifier_training.core.register import Entry

ALIASES = {
    "epochs": ("trainer.max_epochs",),
    "lr": ("optimizer.lr",),
    "batch": ("data.batch_size", "batch_size", "batch_sizes"),
    "imgsz": ("data.image_size", "image_size"),
    "workers": ("data.num_workers",),
    "data": ("data.root",),
}
"""Settings that a word stands for; of several the first that the verb has."""


def resolve(verb: Entry, key: str, value: str | None) -> list[tuple[str, str | None]] | None:
    """Return the settings that another tool's word stands for.

    Args:
        verb: that is called.
        key: as typed, without dashes in front.
        value: as typed; None where none was typed or it is not yet known whether the next word is one.

    Returns:
        Keys with their values; a value of None says that the key still waits for one, or is a flag. None where the word
        is no alias, so that it is read as a setting.

    Raises:
        UserError: for a word that has no counterpart, with the command to type instead.
    """
    if key == "data" and (value is None or not _is_place(verb, value)):
        return None
    name = next((name for name in ALIASES.get(key, ()) if verb.settings_at(name)), None)
    is_setting = key in verb.options and key != "data"
    return None if name is None or is_setting else [(name, value)]


def _is_place(verb: Entry, value: str) -> bool:
    """Whether a value of `data` is a path, and no name of a kind of data."""
    option = verb.options.get("data")
    if option is not None and (option.choice is None or option.fixed is not None):
        return False
    if any(known.name == value for known in entries("data")):
        return False
    return "/" in value or value.startswith(("~", "[")) or os.path.lexists(value)
