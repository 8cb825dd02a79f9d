"""The configuration of an earlier run, and what may change when that run goes on."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from classifier_training.conf.check import has_key, leaf_keys, parse_overrides, value_at
from classifier_training.conf.validate import unknown_key
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.run_reader import read_values
from classifier_training.core.runtime import command, setting
from classifier_training.core.secrets import is_masked
from classifier_training.registry.runs import find_unfinished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hydra.core.override_parser.types import Override

RESUME = "resume"
"""The option that names a run to go on with; its configuration then takes the place of the defaults."""

EXTEND = "extend"
"""The option that says what a longer run's schedule does: it belongs to one start and is not kept."""

MAX_TIME = "trainer.max_time"
"""It changes no weight, and may end training: a run that goes on with another one trains on."""

HARMLESS = (
    MAX_TIME, "data.num_workers", "data.on_error", "callbacks.checkpoint.every_seconds",
    "callbacks.checkpoint.every_minutes", "callbacks.checkpoint.keep_last",
)  # fmt: skip
"""Settings that change no weight."""

HARMLESS_GROUP = "logging."

CHANGEABLE = (*HARMLESS, "data.root", "data.batch_size", EXTEND)
CHANGEABLE_GROUPS = (HARMLESS_GROUP, "trainer.", "optimizer.", "loss.", "transforms.")
"""Settings that a run can go on with otherwise. The others made the run what it is, or come out of its checkpoint."""

FIXED = (
    "transforms.policy",
    "transforms.backend",
    "transforms.kernel",
    "transforms.channel_order",
    "transforms.max_value",
)
"""Settings of these groups that say what the network sees in evaluation too."""


def resumed_run(parsed: Sequence[Override]) -> str | None:
    """Return the run that the words name to resume, if they do."""
    return next(
        (str(word.value()) for word in parsed if word.key_or_group == RESUME and word.value() is not None), None
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
    output = next((str(word.value()) for word in others if word.key_or_group == "output"), None)
    if reference == "latest" and output is not None:
        others = [word for word in others if word.key_or_group != "output"]
        run_dir = find_unfinished(reference, output=output)
    else:
        run_dir = find_unfinished(reference)
    changes = [word.input_line or "" for word in others]
    values = change_values(saved_values(run_dir.config), changes)
    _refuse_masked(values, run_dir.path)
    return {**values, RESUME: str(run_dir.path)}


def _refuse_masked(values: Mapping[str, Any], run: Path) -> None:
    for key in leaf_keys(values):
        value = value_at(values, key)
        if any(is_masked(item) for item in (value if isinstance(value, list) else [value])):
            raise UserError(
                f"{key}: {value}: its secret was not saved with the run",
                "the setting with its secret, typed again",
                f"{command('train')} {setting(RESUME, run)} {key}=…",
            )


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
    # An extension belongs to the start that it was typed at.
    saved = {**saved, EXTEND: None}
    # Not through OmegaConf: a text of a run from elsewhere may look like a reference, and nothing is looked up for it.
    values = copy.deepcopy(saved)
    keys = list(leaf_keys(saved))
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if not has_key(saved, key):
            raise unknown_key(key, override.input_line or key, keys)
        if key not in keys or key in FIXED or not (key in CHANGEABLE or key.startswith(CHANGEABLE_GROUPS)):
            raise UserError(
                f"{override.input_line}: a run cannot be resumed with another {key}",
                f"changes of {enumerate_words([*CHANGEABLE, *(f'{group}*' for group in CHANGEABLE_GROUPS)])}",
                f"leave it out, or train anew without {RESUME}=",
            )
        *above, name = key.split(".")
        node = values
        for part in above:
            node = node[part]
        typed = OmegaConf.create({name: override.value()})
        node[name] = OmegaConf.to_container(typed, resolve=True)[name]  # type: ignore[index, call-overload]
    return {str(key): value for key, value in values.items()}


def changed_settings(saved: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List the settings in which a run that goes on differs from what it was: key, value before, value now."""
    return [
        (key, value_at(saved, key), value_at(values, key))
        for key in leaf_keys(values)
        if key not in (RESUME, EXTEND) and has_key(saved, key) and value_at(saved, key) != value_at(values, key)
    ]


def keeps_exactness(key: str) -> bool:
    """Whether a run goes on to the letter although this setting changed."""
    return key in HARMLESS or key.startswith(HARMLESS_GROUP)
