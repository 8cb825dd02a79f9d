"""From overrides on the command line to the validated arguments of a verb.

Hydra composes plain values: nodes made from signatures, experiments and the user's own YAML. The register then turns
them into objects. Nothing in a configuration can name code to import: a `type` is looked up in the register, and
`_target_` is an unknown key like any other.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import classifier_training.conf.catalogue  # noqa: F401 - fills the register
from classifier_training.conf.check import leaf_keys, nothing_to_choose, parse_overrides, refuse
from classifier_training.conf.validate import MISSING_MARK, build, unknown_key, validate
from classifier_training.core.errors import UserError
from classifier_training.core.register import TYPE_KEY, Entry, entries, entry
from classifier_training.registry.runs import find_unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Choice, Option

log = logging.getLogger(__name__)

CONF_MODULE = "classifier_training.conf"
USER_CONF = Path("conf")
"""The user's own configuration folder, searched when it is there."""

RESUME = "resume"
"""The option that names a run to go on with; its configuration then takes the place of the defaults."""

SAMPLE_EXPERIMENT = "digits"
"""What `train` trains on when no data is named."""

EXPERIMENT = "experiment"
"""The group whose files set keys of other groups instead of having their own."""


def compose(verb: Entry, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a verb, each checked and built.

    Raises:
        UserError: for a key, group, name, type or value that is wrong.
    """
    return build_arguments(verb, compose_values(verb, overrides))


def compose_values(verb: Entry, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the composed configuration as plain values, interpolations resolved, not yet validated.

    Raises:
        UserError: for a key, group or name that does not exist, or YAML that cannot be composed.
    """
    parsed = parse_overrides(overrides)
    resumed = next((str(word.value()) for word in parsed if word.key_or_group == RESUME), None)
    if resumed is not None and RESUME in verb.options:
        others = [word.input_line or "" for word in parsed if word.key_or_group != RESUME]
        run_dir = find_unfinished(resumed)
        return {**change_values(saved_values(run_dir.config), others), RESUME: str(run_dir.path)}
    with hydra_ready(verb) as searchpath:
        try:
            values = _compose(verb, [*searchpath, *overrides])
            if verb.name == "train" and _names_no_data(values, parsed):
                log.info("No data.root: training on the built-in sample of handwritten digits.")
                values = _compose(verb, [*searchpath, *_with_sample(parsed)])
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, verb, searchpath, overrides) from error
    return values


def build_arguments(verb: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn composed values into the arguments of a verb.

    Raises:
        UserError: for a wrong type or value.
    """
    arguments: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        option = verb.options.get(name)
        if option is None or option.choice is None:
            plain[name] = value
        elif option.choice.many:
            chosen = {key: node for key, node in (value or {}).items() if node is not None}
            arguments[name] = {key: build_node(name, node, f"{name}.{key}") for key, node in chosen.items()}
        elif option.fixed:
            if not isinstance(value, dict):
                raise nothing_to_choose(f"{name}={value}", [f"{name}.{key}" for key in option.fixed.options])
            arguments[name] = build_node(option.fixed.group, value, name)
        else:
            arguments[name] = None if value is None else build_node(name, value, name)
    return arguments | validate(verb, plain, prefix="")


def saved_values(config: Path) -> dict[str, Any]:
    """Read the configuration of an earlier run.

    Raises:
        UserError: when there is none, or it is damaged.
    """
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{config}: {error.strerror}", "the folder of a run", "choose another run") from error
    except yaml.YAMLError as error:
        raise UserError(f"{config}: damaged YAML", "the file that the run wrote", "restore it from a copy") from error
    if not isinstance(values, dict):
        raise UserError(f"{config}: holds no settings", "the file that the run wrote", "restore it from a copy")
    return values


def change_values(saved: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay a few changed values over the configuration of an earlier run.

    Raises:
        UserError: for a key that the configuration does not have, or a whole component, which cannot be swapped.
    """
    config = OmegaConf.create(dict(saved))
    keys = list(leaf_keys(saved))
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if isinstance(saved.get(key), dict):
            raise UserError(
                f"{override.input_line}: a run cannot go on with another {key}",
                "changed values, such as trainer.max_epochs=60",
                "leave it out, or train anew without resume=",
            )
        if key not in keys:
            raise unknown_key(key, override.input_line or key, keys)
        OmegaConf.update(config, key, override.value())
    return plain(config)


def build_node(group: str, node: Any, where: str) -> Any:
    """Build the component that saved or composed values describe.

    Args:
        group: the register group.
        node: settings, and the component's name under `type`.
        where: key of the node in the configuration, for messages.

    Raises:
        UserError: when it is no such node, or a setting is wrong.
    """
    if not isinstance(node, dict) or not isinstance(node.get(TYPE_KEY), str):
        raise UserError(
            f"{where}={node!r}: no component of the group {group}",
            f"settings with the key '{TYPE_KEY}'",
            f"choose one by name: {group}=…",
        )
    settings = {name: value for name, value in node.items() if name != TYPE_KEY}
    return build(entry(group, node[TYPE_KEY]), settings, prefix=f"{where}.")


def group_options(verb: Entry) -> dict[str, list[str]]:
    """List the names that each group offers: components, presets and the user's own files."""
    groups = [*_choices(verb), EXPERIMENT]
    with hydra_ready(verb):
        loader = GlobalHydra.instance().config_loader()
        found = {group: set(loader.get_group_options(group)) for group in groups}
    for group in groups if USER_CONF.is_dir() else ():
        found[group] |= {path.stem for path in (USER_CONF / group).glob("*.yaml")}
    return {group: sorted(names) for group, names in found.items()}


def _compose(verb: Entry, overrides: Sequence[str]) -> dict[str, Any]:
    return plain(hydra_compose(verb.name, overrides=list(overrides)))


def plain(config: Any) -> dict[str, Any]:
    """Turn a composed configuration into plain values, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


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
                *({group: choice.default} for group, choice in choices.items()),
                {EXPERIMENT: None},
            ],
            # A group that nothing is chosen from must still be a key, or an experiment could not fill it.
            **{group: {} if choice.many else None for group, choice in choices.items()},
            **_defaults({name: option for name, option in verb.options.items() if option.choice is None}),
            **{name: _node(option.fixed) for name, option in verb.options.items() if option.fixed},
        },
    )


def _choices(verb: Entry) -> dict[str, Choice]:
    """The groups that the user chooses from."""
    return {name: option.choice for name, option in verb.options.items() if option.choice and not option.fixed}


def _node(known: Entry) -> dict[str, Any]:
    return {TYPE_KEY: known.name, **_defaults(known.options)}


def _defaults(options: Mapping[str, Option]) -> dict[str, Any]:
    return {name: MISSING_MARK if option.required else option.default for name, option in options.items()}


def _names_no_data(values: Mapping[str, Any], parsed: Sequence[Override]) -> bool:
    node = values["data"]
    is_open = isinstance(node, dict) and node.get(TYPE_KEY) == "auto" and node.get("root") is None
    return is_open and not any(word.key_or_group == "data" for word in parsed)


def _with_sample(parsed: Sequence[Override]) -> list[str]:
    """Put the sample's settings below the user's experiments, which thus still decide."""
    experiments = [SAMPLE_EXPERIMENT]
    for word in parsed:
        if word.key_or_group == EXPERIMENT:
            chosen = word.value()
            experiments += map(str, chosen) if isinstance(chosen, list) else [str(chosen)]
    others = [word.input_line or "" for word in parsed if word.key_or_group != EXPERIMENT]
    return [f"{EXPERIMENT}=[{','.join(experiments)}]", *others]


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


def refuse_unknown(verb: Entry, searchpath: list[str], overrides: Sequence[str]) -> None:
    """Find the first override that names what does not exist.

    Raises:
        UserError: for it.
    """
    groups = [*_choices(verb), EXPERIMENT]
    chosen = [
        word for word in parse_overrides(overrides) if word.key_or_group in groups and not word.is_sweep_override()
    ]
    try:
        values = _compose(verb, [*searchpath, *(word.input_line or "" for word in chosen)])
    except (HydraException, OmegaConfBaseException):
        values = _compose(verb, [])
    refuse(overrides, groups=groups, values=values)


def _explain(error: Exception, verb: Entry, searchpath: list[str], overrides: Sequence[str]) -> UserError:
    try:
        refuse_unknown(verb, searchpath, overrides)
    except UserError as found:
        return found
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(
        f"the configuration cannot be composed: {first.strip()}",
        "settings of the form group.key=value, and YAML in Hydra's form",
        f"classifier-training {verb.name} --help lists groups and settings",
    )
