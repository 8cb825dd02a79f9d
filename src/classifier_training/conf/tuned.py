"""Tuned settings: the experiment that `tune` writes for a model on some data, and its use by a later `train`."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.conf.overrides import leaf_keys, value_at
from classifier_training.conf.recipes import RECIPE, data_label, model_label
from classifier_training.conf.resume import RESUME
from classifier_training.conf.store import EXPERIMENT, USER_CONF, takes_experiments
from classifier_training.core.errors import UserError, enumerate_words, first_line
from classifier_training.core.register import entry
from classifier_training.core.run_dir import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Entry

log = logging.getLogger(__name__)

MARK = "# tuned for: "
"""Begins the line of an experiment that names its model and data, as JSON."""


def experiment_name(model: str, data: str, places: Sequence[str]) -> str:
    """Return the name of the experiment with the best settings of a model on some data.

    Args:
        model: its label.
        data: its label.
        places: the data's folders, or what else tells it from other data; see `places_of`. Where another search has the
            name that the labels give, theirs ends in a digest of these.
    """
    name = "tuned_" + "_".join(re.sub(r"\W+", "_", part).strip("_") or "unnamed" for part in (model, data))
    path = experiment_path(name)
    found = _tuned_for(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else None
    if found is None or found == [model, *places]:
        return name
    return f"{name}_{sha256(json.dumps(places).encode()).hexdigest()[:6]}"


def places_of(data: Mapping[str, Any]) -> list[str]:
    """Return what tells data from others: its folders, resolved; without one, its name."""
    root = data.get("root")
    if root is None:
        return [data_label(data)]
    roots = [str(one) for one in (root if isinstance(root, list) else [root])]
    return [one if "://" in one else str(Path(one).expanduser().resolve()) for one in roots]


def _tuned_for(text: str) -> list[str] | None:
    """Return the model and data that an experiment was tuned for; None for one of the user's own."""
    line = next((line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)), None)
    if line is None:
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, list) else None


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
    head = f"# @package _global_\n# {words}\n{MARK}{json.dumps([model_label(model), *places_of(data)])}\n"
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
    wanted = [model_label(values["model"]), *places_of(values["data"])]
    paths = list((USER_CONF / EXPERIMENT).glob("*.yaml"))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        text = path.read_text(encoding="utf-8", errors="replace")
        if _tuned_for(text) == wanted:
            node = _parsed(path, text)
            # A person may have added to the list, such as _self_.
            listed = [one for one in node.pop("defaults", None) or () if isinstance(one, dict)]
            chosen = {str(key).partition("/")[2]: value for one in listed for key, value in one.items()}
            written = {key: value_at(node, key) for key in leaf_keys(node)}
            return _Tuned(path, {key: value for key, value in {**chosen, **written}.items() if key not in _CHOICES})
    return None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        node = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unfit(path, first_line(error)) from error
    if not isinstance(node, dict):
        raise _unfit(path, "no settings")
    return node


def _unfit(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: the settings that tune found for this model and data cannot be read ({reason})",
        "YAML with settings of train",
        f"correct it, or leave it out: {EXPERIMENT}=null",
    )
