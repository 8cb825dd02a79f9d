"""Which recipe a run follows when none is named.

A recipe is a file in `conf/recipe/` that chooses presets of other groups, by the defaults list of Hydra. It chooses
whole presets, not single settings of them, so that whoever types optimizer=sgd gets all of that and nothing of the
recipe's optimizer. Experiments and typed words go over it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RECIPE = "recipe"
"""The group, and the setting that a run's config.yaml keeps the chosen name in."""

AUTO = "auto"


def choose_recipe(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the recipe for a composed configuration, and what it is for in words."""
    model = values.get("model")
    node = model if isinstance(model, dict) else {}
    if node.get("pretrained") or node.get("weights") or values.get("init_from"):
        return "finetune", "a network that starts from trained weights"
    return "scratch", "a network that starts from random weights"


def recipe_words(values: Mapping[str, Any]) -> str:
    """Name the recipe of a configuration, and what it is for where it is the one that auto takes."""
    name, purpose = choose_recipe(values)
    return f"{name}, for {purpose}" if values[RECIPE] == name else str(values[RECIPE])


def with_chosen_recipe(values: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """Choose the recipe for a composed configuration, and put it in the place of another among the typed words."""
    name, _ = choose_recipe(values)
    return [*(word for word in words if word.partition("=")[0] != RECIPE), f"{RECIPE}={name}"]
