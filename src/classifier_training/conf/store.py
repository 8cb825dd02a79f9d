"""Hydra's store of configuration nodes, filled from the register and the user's own folder."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

import classifier_training.conf.catalogue  # noqa: F401 - fills the register
from classifier_training.conf.recipes import AUTO, RECIPE
from classifier_training.conf.validate import MISSING_MARK
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import TYPE_KEY, entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from classifier_training.core.register import Choice, Entry, Option

CONF_MODULE = "classifier_training.conf"
USER_CONF = Path("conf")
"""The user's own configuration folder, searched when it is there."""

EXPERIMENT = "experiment"
"""The group whose files set keys of other groups instead of having their own."""

LOGGING, LOGGING_VARIABLE = "logging", "CLASSIFIER_TRAINING_LOGGING"
"""The group of loggers, and the environment variable that names those of runs which choose none, as in compose.yaml."""


@contextmanager
def hydra_ready(verb: Entry) -> Iterator[list[str]]:
    """Have Hydra ready; gives the override that adds the user's folder to its search path."""
    _store_nodes(verb)
    _refuse_shadows()
    GlobalHydra.instance().clear()
    with initialize_config_module(CONF_MODULE, version_base="1.3"):
        yield [f"hydra.searchpath=['file://{USER_CONF.absolute()}']"] if USER_CONF.is_dir() else []


def _store_nodes(verb: Entry) -> None:
    """Put every registered component and the verb itself into Hydra's store, as nodes of plain defaults."""
    store = ConfigStore.instance()
    # Hydra copies all of it for each composition, only reads the copy, and copies once more what it reads.
    store.__deepcopy__ = lambda _: store  # type: ignore[attr-defined]
    choices = _choices(verb)
    for known in entries():
        if known.group in choices:
            package = f"{known.group}.{known.name}" if choices[known.group].many else None
            store.store(name=known.name, group=known.group, node=_node(known), package=package)
    store.store(
        name=verb.name,
        node={
            "defaults": [
                "_self_",
                *({group: _default_choice(group, choice)} for group, choice in choices.items()),
                # Of two that set the same the later decides, and words decide over both.
                *([{RECIPE: AUTO}, {EXPERIMENT: None}] if takes_experiments(verb) else []),
            ],
            # A group that nothing is chosen from must still be a key, or an experiment could not fill it.
            **{group: {} if choice.many else None for group, choice in choices.items()},
            **_defaults({name: option for name, option in verb.options.items() if option.choice is None}),
            **{name: _node(option.fixed) for name, option in verb.options.items() if option.fixed},
        },
    )


def _default_choice(group: str, choice: Choice) -> str | list[str] | None:
    named = os.environ.get(LOGGING_VARIABLE, "") if group == LOGGING else ""
    if not named:
        return choice.default
    chosen = [name.strip() for name in named.split(",")]
    known = [item.name for item in entries(LOGGING)]
    if unknown := [name for name in chosen if name not in known]:
        close = nearest(unknown[0], known)
        raise UserError(
            f"the environment variable {LOGGING_VARIABLE}={named}: there is no logger {unknown[0]!r}",
            f"one or more of {enumerate_words(known)}, with commas between them",
            f"export {LOGGING_VARIABLE}={close[0] if close else known[0]}, or unset it",
        )
    return chosen


def _choices(verb: Entry) -> dict[str, Choice]:
    """The groups that the user chooses from."""
    return {name: option.choice for name, option in verb.options.items() if option.choice and not option.fixed}


def _node(known: Entry) -> dict[str, Any]:
    return {TYPE_KEY: known.name, **_defaults(known.options)}


def _defaults(options: Mapping[str, Option]) -> dict[str, Any]:
    return {name: MISSING_MARK if option.required else option.default for name, option in options.items()}


def group_options(verb: Entry) -> dict[str, list[str]]:
    """List the names that each group offers: components, presets and the user's own files."""
    with hydra_ready(verb):
        return offered_names(verb)


def offered_names(verb: Entry) -> dict[str, list[str]]:
    """Do what `group_options` does, with Hydra ready."""
    groups = list(_choices(verb))
    if takes_experiments(verb):
        groups += [RECIPE, EXPERIMENT]
    loader = GlobalHydra.instance().config_loader()
    found = {group: set(loader.get_group_options(group)) for group in groups}
    for group in groups if USER_CONF.is_dir() else ():
        found[group] |= {path.stem for path in (USER_CONF / group).glob("*.yaml")}
    return {group: sorted(names) for group, names in found.items()}


def takes_experiments(verb: Entry) -> bool:
    """Whether a verb has the settings that recipes and experiments are written for."""
    return verb.name == "train"


def _refuse_shadows() -> None:
    """A YAML file of the user's hides a component of the same name without a word; say it instead."""
    known = {(item.group, item.name) for item in entries()}
    for path in sorted(USER_CONF.glob("*/*.yaml")) if USER_CONF.is_dir() else ():
        if (path.parent.name, path.stem) in known:
            raise UserError(
                f"{path} has the name of a built-in {path.parent.name}",
                "a name of its own, so that both can be chosen",
                f"mv {path} {path.with_stem('my_' + path.stem)}   and choose it by that name",
            )
