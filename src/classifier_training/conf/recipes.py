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
    """Return the recipe for a composed configuration, and the reason in words."""
    model = values.get("model")
    node = model if isinstance(model, dict) else {}
    if node.get("pretrained") or node.get("weights") or values.get("init_from"):
        return "finetune", "the network starts from trained weights"
    return "scratch", "the network starts from random weights"


def with_recipe(words: Sequence[str], name: str) -> list[str]:
    """Replace the choice of a recipe among typed words."""
    return [*(word for word in words if word.partition("=")[0] != RECIPE), f"{RECIPE}={name}"]
