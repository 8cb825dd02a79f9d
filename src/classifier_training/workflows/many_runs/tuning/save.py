"""The best settings of a study, as an experiment of the user's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.conf.store import EXPERIMENT, USER_CONF
from classifier_training.core.register import entry
from classifier_training.core.run_dir import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def experiment_name(model: str, data: str) -> str:
    """Return the name under which what is best for a model on some data is kept."""
    return "tuned_" + "_".join(re.sub(r"\W+", "_", part).strip("_") or "unnamed" for part in (model, data))


def experiment_path(name: str) -> Path:
    """Return the file of an experiment in the user's folder."""
    return USER_CONF / EXPERIMENT / f"{name}.yaml"


def save_experiment(name: str, *, model: Mapping[str, Any], best: Mapping[str, Any], words: str) -> Path:
    """Write an experiment that `train experiment=NAME` runs; an older one of the name is replaced.

    Args:
        name: of the experiment.
        model: the model's settings that choose it: type, and the hub's name where it has one.
        best: values by setting; a key without a dot chooses from a group.
        words: where the values come from.

    Returns:
        The file.
    """
    groups = {key for key, option in entry("verb", "train").options.items() if option.choice is not None}
    chosen = {"model": model["type"], **{key: value for key, value in best.items() if key in groups}}
    values: dict[str, Any] = {"defaults": [{f"override /{key}": value} for key, value in chosen.items()]}
    set_to = {key: value for key, value in best.items() if key not in groups}
    if model.get("name"):
        set_to["model.name"] = model["name"]
    for key, value in sorted(set_to.items()):
        node = values
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    path = experiment_path(name)
    head = f"# @package _global_\n# {words}\n"
    write_text(path, head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path
