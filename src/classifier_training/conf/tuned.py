"""Tuned settings: the experiment that `tune` writes for a model on some data, and its use by a later `train`."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.conf.overrides import leaf_keys
from classifier_training.conf.recipes import RECIPE, data_label, model_label
from classifier_training.conf.resume import RESUME
from classifier_training.conf.store import EXPERIMENT, USER_CONF, takes_experiments
from classifier_training.core.errors import enumerate_words
from classifier_training.core.register import entry
from classifier_training.core.run_dir import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Entry

log = logging.getLogger(__name__)

MARK = "# tuned for: "
"""Begins the line of an experiment that names its model and data, as JSON."""


def experiment_name(model: str, data: str) -> str:
    """Return the name of the experiment with the best settings of a model on some data."""
    return "tuned_" + "_".join(re.sub(r"\W+", "_", part).strip("_") or "unnamed" for part in (model, data))


def experiment_path(name: str) -> Path:
    """Return the file of an experiment in the user's folder."""
    return USER_CONF / EXPERIMENT / f"{name}.yaml"


def save_experiment(
    name: str, *, model: Mapping[str, Any], data: Mapping[str, Any], best: Mapping[str, Any], words: str
) -> Path:
    """Write an experiment that `train experiment=NAME` runs; an older one of the name is replaced.

    Args:
        name: of the experiment.
        model: the model's settings that choose it: type, and the hub's name where it has one.
        data: the data's settings.
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
    head = f"# @package _global_\n# {words}\n{MARK}{json.dumps(_identity(model, data))}\n"
    write_text(path, head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def without_tuned(words: Sequence[str]) -> list[str]:
    """Return settings of `train` for a run that takes none of its settings from an earlier search."""
    typed = {text.lstrip("+~").partition("=")[0] for text in words}
    return list(words) if EXPERIMENT in typed else [*words, f"{EXPERIMENT}=null"]


def tuned_experiment(verb: Entry, values: Mapping[str, Any], parsed: Sequence[Override]) -> str | None:
    """Return the newest experiment that `tune` wrote for the model and data of a run, and say that it is used.

    It is not used, which is said too, where a recipe or one of the searched settings is typed.

    Args:
        verb: whose settings these are.
        values: the composed configuration.
        parsed: what was typed.
    """
    typed = {word.key_or_group for word in parsed}
    if not takes_experiments(verb) or typed & {EXPERIMENT, RESUME} or not isinstance(values.get("model"), dict):
        return None
    found = _newest(values)
    if found is None:
        return None
    searched = {RECIPE, *found.settings, *(key.partition(".")[0] for key in found.settings)}
    others = sorted((typed & searched).difference(_CHOICES))
    name = found.path.stem
    if others:
        log.info("tuned settings: not used, since %s is typed: experiment=%s", enumerate_words(others), name)
        return None
    shown = ", ".join(f"{key}={value}" for key, value in found.settings.items())
    log.info("tuned settings: %s (%s; without them: experiment=null)", shown, found.path)
    return name


_CHOICES = ("model", "model.name")
"""What the search was made for, and not its result."""


@dataclass(frozen=True)
class _Tuned:
    """An experiment of `tune`.

    Args:
        path: its file.
        settings: what it sets, by key.
    """

    path: Path
    settings: Mapping[str, Any]


def _newest(values: Mapping[str, Any]) -> _Tuned | None:
    wanted = _identity(values["model"], values["data"])
    paths = list((USER_CONF / EXPERIMENT).glob("*.yaml"))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        text = path.read_text(encoding="utf-8")
        lines = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
        if lines and lines[0] == json.dumps(wanted):
            node = yaml.safe_load(text)
            chosen = {key.partition("/")[2]: value for one in node.pop("defaults") for key, value in one.items()}
            written = {key: _value(node, key) for key in leaf_keys(node)}
            return _Tuned(path, {key: value for key, value in {**chosen, **written}.items() if key not in _CHOICES})
    return None


def _value(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node[part]
    return node


def _identity(model: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Name a model and data; data of two folders of one name differ in their path."""
    root = data.get("root")
    if root is None:
        return [model_label(model), data_label(data)]
    roots = [str(one) for one in (root if isinstance(root, list) else [root])]
    return [model_label(model), *(one if "://" in one else str(Path(one).expanduser().resolve()) for one in roots)]
