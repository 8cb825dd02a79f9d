"""The configuration of an earlier run, and what may change when that run is resumed."""

from __future__ import annotations

import copy
import itertools
import os
from typing import TYPE_CHECKING, Any

from classifier_training.conf.overrides import has_key, leaf_keys, parse_overrides, typed_value, value_at
from classifier_training.conf.validate import unknown_key
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.processes import process_rank
from classifier_training.core.register import TYPE_KEY, VERB, entry
from classifier_training.core.run_reader import read_values
from classifier_training.core.runtime import command, setting
from classifier_training.core.secrets import is_masked
from classifier_training.core.settings import Resume, Trait
from classifier_training.registry.runs import find_unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Entry

RESUME = "resume"
"""The option that names a run to resume; its configuration then takes the place of the defaults."""


def resumed_run(parsed: Sequence[Override]) -> str | None:
    """Return the run that the words name to resume, if they do."""
    return next(
        (str(typed_value(word)) for word in parsed if word.key_or_group == RESUME and word.value() is not None), None
    )


def resumed_values(reference: str, parsed: Sequence[Override]) -> dict[str, Any]:
    """Return the configuration to resume with.

    Args:
        reference: a run folder, or latest.
        parsed: what was typed.

    Raises:
        UserError: when there is no such run, or a setting cannot change.
    """
    others = [word for word in parsed if word.key_or_group != RESUME]
    output = next((str(typed_value(word)) for word in others if word.key_or_group == "output"), None)
    if output is not None and (reference == "latest" or not os.path.lexists(reference)):
        others = [word for word in others if word.key_or_group != "output"]
        run_dir = find_unfinished(reference, output=output)
    else:
        run_dir = find_unfinished(reference)
    changes = [word.input_line or "" for word in others]
    values = change_values(saved_values(run_dir.config), changes)
    if process_rank().leads and (key := masked_key(values)) is not None:
        # Of several processes the first alone logs, and what it was told is not written down for the others.
        raise UserError(
            f"{key}: {value_at(values, key)}: its secret was not saved with the run",
            "the setting with its secret, typed again",
            f"{command('train')} {setting(RESUME, run_dir.path)} {key}=…",
        )
    return {**values, RESUME: str(run_dir.path)}


def masked_key(values: Mapping[str, Any]) -> str | None:
    """Return the first setting whose secret is not written down; None where there is none."""
    for key in leaf_keys(values):
        value = value_at(values, key)
        if any(is_masked(item) for item in (value if isinstance(value, list) else [value])):
            return key
    return None


def refuse_resume(values: Mapping[str, Any], where: str) -> None:
    """Raise when a run to resume is named where none can be.

    Raises:
        UserError: then.
    """
    if values.get(RESUME) is not None:
        raise UserError(
            f"{RESUME}={values[RESUME]} {where}",
            "one run to resume, typed: its own configuration takes the place of all others",
            f"classifier-training train {RESUME}={values[RESUME]}",
        )


def saved_values(config: Path) -> dict[str, Any]:
    """Read the configuration of an earlier run.

    Raises:
        UserError: when there is none, or it is damaged.
    """
    try:
        return read_values(config)
    except OSError as error:
        raise UserError(f"{config}: {error.strerror}", "the folder of a run", "choose another run") from error


def change_values(saved: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay a few changed values over the configuration of an earlier run.

    Raises:
        UserError: for a key that the configuration does not have, or one that cannot change any more.
    """
    # What belongs to one start was typed at that.
    starts = {name: item.default for name, item in _train().options.items() if _of_a_start(name) and not item.choice}
    saved = {**saved, **starts}
    # Not through OmegaConf: a text of a run from elsewhere may look like a reference, and nothing is looked up for it.
    values = copy.deepcopy(saved)
    keys = list(leaf_keys(saved))
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if not has_key(saved, key):
            raise unknown_key(key, override.input_line or key, keys)
        before = value_at(saved, key)
        if (isinstance(before, dict) and TYPE_KEY in before) or on_resume(key) is Resume.FIXED:
            raise UserError(
                f"{override.input_line}: a run cannot be resumed with another {key}",
                f"changes of {enumerate_words(_changeable(keys), limit=20)}",
                f"leave it out, or train anew without {RESUME}=",
            )
        *above, name = key.split(".")
        node = values
        for part in above:
            node = node[part]
        node[name] = typed_value(override)
    return {str(key): value for key, value in values.items()}


def changed_settings(saved: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List the settings in which a resumed run differs from what it was: key, value before, value now."""
    return [
        (key, value_at(saved, key), value_at(values, key))
        for key in leaf_keys(values)
        if not _of_a_start(key) and has_key(saved, key) and value_at(saved, key) != value_at(values, key)
    ]


def on_resume(key: str) -> Resume:
    """Return what another value of a setting of `train` does to a resumed run.

    Which component fills a group is fixed, and so is a setting that says nothing.
    """
    option = _train().options.get(key)
    chooses = option is not None and option.choice is not None
    return Resume.FIXED if chooses else _train().mark(key, Resume) or Resume.FIXED


def keeps_exactness(key: str) -> bool:
    """Whether a resumed run is to the letter what it would have been, although this setting changed."""
    return on_resume(key) in (Resume.EXACT, Resume.LIMIT)


def _changeable(keys: Sequence[str]) -> Iterator[str]:
    """Name those of a run's settings that can change: one by one, or their group with what is fixed of it."""
    for above, group in itertools.groupby(keys, key=lambda key: key.rpartition(".")[0]):
        listed = list(group)
        fixed = [key for key in listed if on_resume(key) is Resume.FIXED]
        if not above or len(fixed) > len(listed) / 2:
            yield from (key for key in listed if key not in fixed)
        else:
            names = " and ".join(", ".join(key.rpartition(".")[2] for key in fixed).rsplit(", ", 1))
            yield f"{above}.*{f' (not {names})' if fixed else ''}"


def _of_a_start(key: str) -> bool:
    return Trait.START in _train().traits(key)


def _train() -> Entry:
    return entry(VERB, "train")
