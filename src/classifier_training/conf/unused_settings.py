"""Settings of `train` that have no effect with a model that is fitted at once: refused where they are typed.

What a file of settings or a preset says beside the model is left alone: it was not said about this model.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from classifier_training.callbacks.observer import Observer
from classifier_training.conf.overrides import chosen_names
from classifier_training.conf.store import EXPERIMENT
from classifier_training.core.errors import UserError
from classifier_training.core.register import TYPE_KEY, Entry, entries
from classifier_training.core.settings import Fit
from classifier_training.models.shallow import ShallowModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.override_parser.types import Override


def refuse_unused(verb: Entry, values: Mapping[str, Any], parsed: Sequence[Override]) -> None:
    """Raise when a typed setting of `train` has no effect with the chosen model.

    Raises:
        UserError: for the first that has none.
    """
    node = values.get("model")
    if "trainer" not in verb.options or not isinstance(node, dict) or not is_fitted_at_once(node.get(TYPE_KEY)):
        return
    for word in parsed:
        if word.value() is not None and (came := _unused_part(verb, word)):
            raise UserError(
                f"{came} has no effect with model={node[TYPE_KEY]}, which is fitted at once and not in epochs",
                f"settings of {', '.join(_effective(verb))} and of callbacks that see results",
                "leave it out",
            )


def is_fitted_at_once(model: Any) -> bool:
    """Whether a model of this name learns without epochs."""
    return any(
        known.name == model and inspect.isclass(known.target) and issubclass(known.target, ShallowModel)
        for known in entries("model")
    )


def _unused_part(verb: Entry, word: Override) -> str:
    """Return what of a typed word has no effect, or an empty text."""
    key = word.key_or_group
    group = key.partition(".")[0]
    if group.startswith("hydra") or group == EXPERIMENT or verb.mark(key, Fit) is Fit.ANY:
        return ""
    if group != "callbacks":
        # A component is chosen with all its settings, some of which may have an effect.
        return "" if any(name.startswith(f"{key}.") for name in _effective(verb)) else word.input_line or ""
    if key != group:
        return "" if _sees_results(key.split(".")[1]) else word.input_line or ""
    (names,) = chosen_names(word)
    listed = names if isinstance(names, list) else [names]
    return next((f"callbacks={name}" for name in map(str, listed) if not _sees_results(name)), "")


def _effective(verb: Entry) -> list[str]:
    """Name the groups and settings that have an effect on a model that is fitted at once."""
    found: dict[str, None] = {}
    for name, option in verb.options.items():
        if option.mark(Fit) is Fit.ANY:
            found[name] = None
        elif option.choice is not None:
            parts = [part for item in entries(name) for part in item.options.values()]
            found |= dict.fromkeys(f"{name}.{part.name}" for part in parts if part.mark(Fit) is Fit.ANY)
    return [*found, EXPERIMENT]


def _sees_results(callback: str) -> bool:
    """Whether a callback observes; names that the register does not have are the user's sets of several."""
    found = [known.target for known in entries("callbacks") if known.name == callback]
    return all(inspect.isclass(target) and issubclass(target, Observer) for target in found)
