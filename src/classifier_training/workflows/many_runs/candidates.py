"""The runs of a comparison: models x data sets x seeds, as settings of `train`."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.conf.compose import compose
from classifier_training.conf.overrides import parse_overrides, typed_value, word, written_instead
from classifier_training.conf.searches import read_families, ready_models, representatives
from classifier_training.conf.store import EXPERIMENT, group_options
from classifier_training.conf.tuned import experiment_name, experiment_path, places_of, without_tuned
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import TYPE_KEY, entries, entry
from classifier_training.core.runtime import quiet_screen
from classifier_training.core.storage.places import is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

ALL = "all"

AGAIN = "the same command again: it resumes where it was left"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A planned run.

    Args:
        model: the user's name of it.
        data: display name of the data set.
        seed: of the run.
        words: settings of `train`, except output.
        tuned: name of the experiment with the tuned settings; None if the run is not tuned.
    """

    model: str
    data: str
    seed: int
    words: tuple[str, ...]
    tuned: str | None

    @property
    def name(self) -> str:
        """Name for display and folders, unique for the settings."""
        digest = hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:8]
        return f"{file_name(self.model)}-{file_name(self.data)}-seed{self.seed}-{digest}"


def file_name(text: str) -> str:
    """Return a text as a valid part of a file name."""
    return re.sub(r"[^\w.]+", "_", text).strip("._") or "unnamed"


def chosen_models(models: Sequence[str] | str | None) -> list[str]:
    """Return the models to compare: one of each family unless named, or all that need no further setting.

    Raises:
        UserError: for a name that is no model.
    """
    if models is None:
        return representatives(read_families())
    if models == ALL:
        return ready_models()
    named = [models] if isinstance(models, str) else list(models)
    for name in named:
        model_words(name)
    return list(dict.fromkeys(named))


def model_words(model: str) -> list[str]:
    """Return the settings that choose a model; models of a hub are named with it, as timm:convnext_tiny.

    Raises:
        UserError: when there is no such model.
    """
    hub, _, name = model.partition(":")
    offered = group_options(entry("verb", "train"))["model"]
    if hub not in offered:
        close = nearest(hub, offered)
        raise UserError(
            f"models: there is no model {hub!r}",
            f"some of {enumerate_words(offered)}, or HUB:NAME for one of a hub",
            f"models=[{close[0]}]" if close else "classifier-training models lists all",
        )
    wants_name = any(known.name == hub and "name" in known.options for known in entries("model"))
    if bool(name) != wants_name:
        raise UserError(
            f"models: {model!r} "
            + ("lacks the name of a network of the hub" if wants_name else "has a name after the colon, but is no hub"),
            "HUB:NAME for timm, torchvision and huggingface, and only a name for the others",
            f"models=[{hub}:resnet50]" if wants_name else f"models=[{hub}]",
        )
    return [word("model", hub), *([word("model.name", name)] if name else [])]


def data_words(data: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings that choose each data set, by its display name.

    Raises:
        UserError: when one is neither a built-in data set nor a file or folder.
    """
    offered = group_options(entry("verb", "train"))["data"]
    found: dict[str, list[str]] = {}
    for item in dict.fromkeys(data):
        path = Path(item).expanduser()
        if item in offered:
            # A folder may have that name, too.
            if item in found:
                (root,) = found[item]
                found[root.partition("=")[2]] = found.pop(item)
            found[item] = [word("data", item)]
        elif is_remote(item):
            found[item] = [word("data.root", item)]
        elif path.exists():
            absolute = path.absolute()
            # Two folders may have the same name.
            label = absolute.name if absolute.name not in found else str(absolute)
            found[label] = [word("data.root", absolute)]
        else:
            close = nearest(item, offered)
            raise UserError(
                f"data: {item!r} is no folder, file or built-in data set",
                f"folders or files with images, or some of {enumerate_words(offered)}",
                f"data=[{close[0]}]" if close else "data=[/my/images,digits]",
            )
    return found


def plan(
    models: Sequence[str], data: Sequence[str], seeds: Sequence[int], settings: Sequence[str], *, tuned: bool
) -> list[Planned]:
    """Return the runs of a comparison, each with its settings of `train`.

    A setting that some models do not have is applied to the others, with a warning.

    Args:
        models: their names.
        data: names of data sets, or folders.
        seeds: of the runs of each.
        settings: further settings of `train`.
        tuned: whether each model uses the settings that `tune` found for it on the data.

    Raises:
        UserError: for a setting that no model has, or that a comparison sets itself.
    """
    refuse_own("compare", settings, besides={EXPERIMENT: "tune=false"} if tuned else {})
    found = data_words(data)
    kept = _fit_settings(models, next(iter(found.values())), settings)
    runs = []
    for label, chosen in found.items():
        (choice,) = parse_overrides(chosen)
        place = {"root": typed_value(choice)} if choice.key_or_group == "data.root" else {TYPE_KEY: typed_value(choice)}
        for model in models:
            experiment = experiment_name(model, label, places_of(place)) if tuned else None
            words = [*model_words(model), *chosen, *kept[model]]
            words += [word(EXPERIMENT, experiment)] if experiment else []
            runs += [
                Planned(model=model, data=label, seed=seed, words=(*words, word("seed", seed)), tuned=experiment)
                for seed in seeds
            ]
    return runs


def is_tuned(run: Planned) -> bool:
    """Whether the tuned settings of a run exist; true for a run that is not tuned."""
    return run.tuned is None or experiment_path(run.tuned).exists()


def refuse_own(verb: str, settings: Sequence[str], *, besides: Mapping[str, str] | None = None) -> None:
    """Raise for a word that sets what a verb of many runs sets for each of them.

    Args:
        verb: its name.
        settings: words of `train`.
        besides: further such keys, each with what is written instead.

    Raises:
        UserError: for the first such setting.
    """
    for typed in settings:
        key, equals, _ = typed.lstrip("+~").partition("=")
        instead = (besides or {}).get(key) or written_instead(entry("verb", verb), key)
        if instead is not None:
            raise UserError(f"{typed}: no setting that all runs of {verb} share", "one that they share", instead)
        if not equals:
            raise UserError(f"{typed}: not a setting", "key=value", f"{typed}=…")


def _fit_settings(models: Sequence[str], data: Sequence[str], settings: Sequence[str]) -> dict[str, list[str]]:
    kept: dict[str, list[str]] = {}
    refusals: dict[str, list[UserError]] = {typed: [] for typed in settings}
    for model in models:
        base = [*model_words(model), *data]
        if _refusal([*base, *settings]) is None:
            kept[model] = list(settings)
            continue
        kept[model] = []
        for typed in settings:
            error = _refusal([*base, *kept[model], typed])
            if error is None:
                kept[model].append(typed)
            else:
                refusals[typed].append(error)
    for typed, errors in refusals.items():
        if len(errors) == len(models):
            raise errors[0]
        if errors:
            without = [model for model in models if typed not in kept[model]]
            log.warning("%s: left out for %s (%s)", typed, enumerate_words(without), errors[0].came)
    return kept


def _refusal(words: Sequence[str]) -> UserError | None:
    try:
        with quiet_screen(but="classifier_training.workflows"):
            compose(entry("verb", "train"), without_tuned(words))
    except UserError as error:
        return error
    return None
