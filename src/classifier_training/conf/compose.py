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
from classifier_training.conf.check import chosen_names, nothing_to_choose, parse_overrides, refuse_keys, refuse_names
from classifier_training.conf.resume import RESUME, refuse_resume, resumed_run, resumed_values
from classifier_training.conf.typed import prepare
from classifier_training.conf.validate import MISSING_MARK, build, validate
from classifier_training.core.errors import UserError
from classifier_training.core.register import TYPE_KEY, Entry, entries, entry
from classifier_training.core.runtime import setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Choice, Option

log = logging.getLogger(__name__)

CONF_MODULE = "classifier_training.conf"
USER_CONF = Path("conf")
"""The user's own configuration folder, searched when it is there."""

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
    overrides = prepare(verb, overrides)
    parsed = parse_overrides(overrides)
    refuse_sweeps(parsed)
    resumed = resumed_run(parsed)
    if resumed is not None and RESUME in verb.options:
        return resumed_values(resumed, parsed)
    with hydra_ready(verb) as searchpath:
        try:
            values = _compose(verb, [*searchpath, *overrides])
            if names_no_data(verb, values, parsed):
                values = _compose(verb, [*searchpath, *with_sample(parsed)])
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, verb, searchpath, overrides) from error
    refuse_resume(values, "stands in a file of settings")
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
        elif value is None:
            if option.choice.default is not None:
                raise UserError(
                    f"{name} is null, and {verb.name} cannot do without",
                    f"one {name} of those that classifier-training {verb.name} --help lists",
                    f"{name}={option.choice.default}",
                )
            arguments[name] = None
        else:
            arguments[name] = build_node(name, value, name)
    return arguments | validate(verb, plain, prefix="")


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
    with hydra_ready(verb):
        return offered_names(verb)


def offered_names(verb: Entry) -> dict[str, list[str]]:
    """Do what `group_options` does, with Hydra ready."""
    groups = list(_choices(verb))
    if takes_experiments(verb):
        groups.append(EXPERIMENT)
    loader = GlobalHydra.instance().config_loader()
    found = {group: set(loader.get_group_options(group)) for group in groups}
    for group in groups if USER_CONF.is_dir() else ():
        found[group] |= {path.stem for path in (USER_CONF / group).glob("*.yaml")}
    return {group: sorted(names) for group, names in found.items()}


def takes_experiments(verb: Entry) -> bool:
    """Whether a verb has the settings that experiments are written for."""
    return verb.name == "train"


def _compose(verb: Entry, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        return plain(hydra_compose(verb.name, overrides=list(overrides)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a file below conf/"
        raise UserError(
            f"{where}: not YAML ({error.problem})", "a file of settings in YAML", "mend the line"
        ) from error


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
                *([{EXPERIMENT: None}] if takes_experiments(verb) else []),
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


def names_no_data(verb: Entry, values: Mapping[str, Any], parsed: Sequence[Override]) -> bool:
    """Whether nothing says what to train on, neither words nor files; if so, it is said what will be."""
    if not takes_experiments(verb) or any(word.key_or_group in ("data", "data.root") for word in parsed):
        return False
    node = values["data"]
    if not isinstance(node, dict) or node.get(TYPE_KEY) != "auto" or node.get("root") is not None:
        return False
    log.info("No data.root: training on the built-in sample of handwritten digits.")
    return True


def with_sample(parsed: Sequence[Override]) -> list[str]:
    """Put the sample's settings below the user's experiments, which thus still decide."""
    wanted: list[Any] = [[]]
    for word in parsed:
        if word.key_or_group == EXPERIMENT:
            wanted = chosen_names(word)
    listed = [names if isinstance(names, list) else [names] for names in wanted]
    chosen = ",".join(f"[{','.join([SAMPLE_EXPERIMENT, *map(str, names)])}]" for names in listed)
    others = [word.input_line or "" for word in parsed if word.key_or_group != EXPERIMENT]
    return [f"{EXPERIMENT}={chosen}", *others]


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


def refuse_sweeps(parsed: Sequence[Override]) -> None:
    """Raise when a word has several values.

    Raises:
        UserError: for the first that has.
    """
    for word in parsed:
        if word.is_sweep_override():
            key, _, value = (word.input_line or "").partition("=")
            raise UserError(
                f"{word.input_line}: several values for one run",
                "one value; several are for --multirun, which makes a run of each",
                f"add --multirun, or where this is one text: {setting(key, value)}",
            )


def refuse_unknown(verb: Entry, searchpath: list[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Find the first override that names what does not exist.

    Returns:
        The configuration with the chosen groups and no other setting; of several choices the first.

    Raises:
        UserError: for it, or for a mistake in a file that an override chooses.
    """
    offered = offered_names(verb)
    parsed = parse_overrides(overrides)
    refuse_names(parsed, offered, verb=verb.name)
    groups = [word for word in parsed if word.key_or_group in offered]
    fixed = [word.input_line or "" for word in groups if not word.is_sweep_override()]
    swept = [[_choose(word, name) for name in chosen_names(word)] for word in groups if word.is_sweep_override()]
    firsts = [choices[0] for choices in swept]
    others = [[*fixed, choice] for choices in swept for choice in choices[1:]]
    try:
        values, *_ = [_compose(verb, [*searchpath, *words]) for words in ([*fixed, *firsts], *others)]
    except (HydraException, OmegaConfBaseException) as error:
        raise _uncomposable(error, verb) from error
    refuse_keys(parsed, groups=offered, values=values, verb=verb.name)
    return values


def _choose(word: Override, names: Any) -> str:
    value = f"[{','.join(map(str, names))}]" if isinstance(names, list) else names
    return f"{word.key_or_group}={value}"


def _explain(error: Exception, verb: Entry, searchpath: list[str], overrides: Sequence[str]) -> UserError:
    try:
        refuse_unknown(verb, searchpath, overrides)
    except UserError as found:
        return found
    return _uncomposable(error, verb)


def _uncomposable(error: Exception, verb: Entry) -> UserError:
    lines = [line.strip().strip("'") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return UserError(
        f"the configuration cannot be composed: {lines[0]}",
        " ".join(lines[1:3]) or "settings of the form group.key=value, and YAML in Hydra's form",
        f"mend that line, or see classifier-training {verb.name} --help for groups and settings",
    )
