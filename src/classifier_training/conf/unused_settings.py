"""Settings of `train` that have no effect with a model that is fitted at once: refused where they are typed.

What a file of settings or a preset says beside the model is left alone: it was not said about this model.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.callbacks.observer import Observer
from classifier_training.conf.overrides import chosen_names
from classifier_training.conf.resume import RESUME, saved_values
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.register import TYPE_KEY, Entry, entries
from classifier_training.core.run_dir import RunDir
from classifier_training.core.runtime import command
from classifier_training.models.shallow.builders import ShallowModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.override_parser.types import Override

EFFECTIVE = (
    "data", "model", "sampler", "logging", "imbalance", "monitor", "seed", "name", "category", "output", "allow_leaks",
    "experiment", "transforms.policy", "transforms.backend", "transforms.kernel", "transforms.channel_order",
)  # fmt: skip
"""Groups and settings that matter to a model that is fitted at once."""


def refuse_idle(verb: Entry, values: Mapping[str, Any], parsed: Sequence[Override]) -> None:
    """Raise when a typed setting of `train` has no effect with the chosen model.

    Raises:
        UserError: for the first that has none.
    """
    node = values.get("model")
    if "trainer" not in verb.options or not isinstance(node, dict) or not is_fitted_at_once(node.get(TYPE_KEY)):
        return
    for word in parsed:
        if word.value() is not None and (came := _idle_part(word)):
            raise UserError(
                f"{came} has no effect with model={node[TYPE_KEY]}, which is fitted at once and not in epochs",
                f"settings of {enumerate_words(EFFECTIVE, limit=len(EFFECTIVE))} and of callbacks that see results",
                "leave it out",
            )


def refuse_going_on(reference: str) -> None:
    """Raise when a run to resume has a model that is fitted at once.

    Args:
        reference: the user's `resume=`: a run folder, or latest, which only ever finds runs with a checkpoint.

    Raises:
        UserError: then.
    """
    config = RunDir(Path(reference).expanduser()).config
    node = saved_values(config).get("model") if config.is_file() else None
    if isinstance(node, dict) and is_fitted_at_once(name := node.get(TYPE_KEY)):
        raise UserError(
            f"{RESUME}={reference}: its model is {name}, which is fitted at once: there is no half-way to go on from",
            "a run of a network that was interrupted",
            f"train it anew, which finds its features on disk: {command('train')} model={name} …",
        )


def is_fitted_at_once(model: Any) -> bool:
    """Whether a model of this name learns without epochs."""
    return any(
        known.name == model and inspect.isclass(known.target) and issubclass(known.target, ShallowModel)
        for known in entries("model")
    )


def _idle_part(word: Override) -> str:
    """Return what of a typed word has no effect, or an empty text."""
    group = word.key_or_group.partition(".")[0]
    if group.startswith("hydra") or group in EFFECTIVE or word.key_or_group in EFFECTIVE:
        return ""
    if group != "callbacks":
        # Which way images are fitted is chosen in the group too.
        return "" if word.key_or_group == "transforms" else word.input_line or ""
    if word.key_or_group != group:
        return "" if _sees_results(word.key_or_group.split(".")[1]) else word.input_line or ""
    (names,) = chosen_names(word)
    listed = names if isinstance(names, list) else [names]
    return next((f"callbacks={name}" for name in map(str, listed) if not _sees_results(name)), "")


def _sees_results(callback: str) -> bool:
    """Whether a callback observes; names that the register does not have are the user's sets of several."""
    found = [known.target for known in entries("callbacks") if known.name == callback]
    return all(inspect.isclass(target) and issubclass(target, Observer) for target in found)
