"""What a run takes where it is left to the program: the network, its weights and the recipe.

A recipe is a file in `conf/recipe/` that chooses presets of other groups, by the defaults list of Hydra. It chooses
whole presets, not single settings of them, so that whoever types optimizer=sgd gets all of that and nothing of the
recipe's optimizer. Experiments and typed words go over it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.register import TYPE_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RECIPE = "recipe"
"""The group, and the setting that a run's config.yaml keeps the chosen name in."""

AUTO = "auto"

SAMPLE = "digits"
"""The data set that comes with the package. Drawn digits have little in common with photos: it is trained from random
weights, as a run without a connection can be."""

MODEL, SAMPLE_MODEL = "tf_efficientnet_lite0", "resnet18"
"""What model=auto takes for the user's data, and for the sample. Both have the same settings."""


def resolve_auto(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a composed configuration with the names of network and data in place of auto.

    On the sample the network's weights are random. For all other data model.pretrained=auto stays: only the library
    of the network knows whether there are weights.
    """
    node = values.get("model")
    if not isinstance(node, dict):
        return dict(values)
    changed: dict[str, Any] = {}
    if node.get(TYPE_KEY) == AUTO:
        changed[TYPE_KEY] = choose_model(values)[0]
    if _is_sample(values) and node.get("pretrained") == AUTO:
        changed["pretrained"] = False
    named = {"name": _folder_name(values["data"])} if values.get("name") == AUTO else {}
    return {**values, **named, "model": {**node, **changed}}


def choose_model(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the network that model=auto takes for a composed configuration, and why in words."""
    if _is_sample(values):
        return SAMPLE_MODEL, "for the built-in sample, from random weights"
    return MODEL, "for images of your own: its ImageNet weights come with this package"


def model_words(values: Mapping[str, Any]) -> str:
    """Name the network of a configuration, and why it is that one where auto takes the same."""
    node = values["model"]
    name, reason = choose_model(values)
    if node[TYPE_KEY] == name:
        return f"{name}, what model=auto takes {reason}"
    return f"{node[TYPE_KEY]} {node['name']}" if "name" in node else str(node[TYPE_KEY])


def choose_recipe(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the recipe for a composed configuration, and what it is for in words."""
    if starts_trained(values):
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


def _is_sample(values: Mapping[str, Any]) -> bool:
    data = values.get("data")
    return isinstance(data, dict) and data.get(TYPE_KEY) == SAMPLE


def starts_trained(values: Mapping[str, Any]) -> bool:
    """Whether a run of this configuration starts from trained weights; nothing is read or fetched."""
    model = values.get("model")
    node = model if isinstance(model, dict) else {}
    if node.get("weights") or values.get("init_from"):
        return True
    if node.get("pretrained") == AUTO and node.get(TYPE_KEY) == "timm":
        from classifier_training.models.timm_models import has_weights

        return has_weights(str(node.get("name")))
    return bool(node.get("pretrained"))


def model_label(node: Mapping[str, Any]) -> str:
    """Return the name of a configured model for people: with the hub's name for it, where it is one of a hub."""
    return f"{node[TYPE_KEY]}:{node['name']}" if node.get("name") else str(node[TYPE_KEY])


def data_label(node: Mapping[str, Any]) -> str:
    """Return the name of configured data for people: of its folder, or of the data set."""
    root = node.get("root")
    if root is None:
        return str(node[TYPE_KEY]) if not node.get("name") else f"{node[TYPE_KEY]}:{node['name']}"
    return "+".join(Path(str(one)).name for one in (root if isinstance(root, list) else [root]))


def _folder_name(node: Mapping[str, Any]) -> str:
    """Return the name of configured data as a part of a path."""
    root = node.get("root")
    label = Path(root).expanduser().resolve().name if isinstance(root, str) else data_label(node)
    return re.sub(r"[^\w.-]+", "_", label).strip("._") or "data"
