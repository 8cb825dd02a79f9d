"""From overrides on the command line to the validated arguments of a verb.

Hydra composes plain values: nodes made from signatures, experiments and the user's own YAML. The register then turns
them into objects. Nothing in a configuration can name code to import: a `type` is looked up in the register, and
`_target_` is an unknown key like any other.
"""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING, Any

import yaml
from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from classifier_training.conf.inherited import inherited_words, network_words
from classifier_training.conf.near_values import near_value
from classifier_training.conf.overrides import (
    chosen_names,
    long_lists,
    parse_overrides,
    prepare,
    quoted,
    refuse_keys,
    refuse_names,
    typed_value,
    value_at,
)
from classifier_training.conf.recipes import AUTO, RECIPE, SAMPLE, resolve_auto, with_chosen_recipe
from classifier_training.conf.resume import RESUME, refuse_resume, resumed_run, resumed_values
from classifier_training.conf.store import (
    EXPERIMENT,
    USER_CONF,
    group_options,
    hydra_ready,
    offered_names,
    takes_experiments,
)
from classifier_training.conf.tuned import tuned_experiment
from classifier_training.conf.unused_settings import refuse_unused
from classifier_training.conf.validate import build_arguments, build_node
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.register import TYPE_KEY, Entry

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hydra.core.override_parser.types import Override

    from classifier_training.core.register import Entry

log = logging.getLogger(__name__)

LAUNCHER = "launcher"
"""The group of what runs a command."""


def compose(verb: Entry, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a verb, each checked and built.

    Raises:
        UserError: for a key, group, name, type or value that is wrong.
    """
    if verb.passes_on is None:
        return build_arguments(verb, compose_values(verb, overrides))
    own, others = split_words(verb, overrides)
    return {**build_arguments(verb, own_values(verb, prepare(verb, own))), verb.passes_on.name: others}


def compose_values(verb: Entry, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the composed configuration as plain values, interpolations resolved, not yet validated.

    Raises:
        UserError: for a key, group or name that does not exist, or YAML that cannot be composed.
    """
    overrides = prepare(verb, overrides)
    parsed = parse_overrides(overrides)
    refuse_sweeps(verb, parsed)
    _refuse_numbers(verb, parsed)
    resumed = resumed_run(parsed)
    if resumed is not None and RESUME in verb.options:
        where = [text for text in overrides if _is_of(text, {LAUNCHER})]
        values = resumed_values(resumed, parse_overrides(without_launcher(overrides)))
        return {**values, LAUNCHER: group_values(verb, where)[LAUNCHER]}
    with hydra_ready(verb) as searchpath:
        try:
            values = compose_words(verb, [*searchpath, *overrides])
            if (found := completed(verb, values, parsed)) is not None:
                overrides = found
                values = compose_words(verb, [*searchpath, *overrides])
            values = resolve_auto(values)
            if (tuned := with_tuned(verb, values, overrides, parsed)) is not None:
                overrides = tuned
                values = resolve_auto(compose_words(verb, [*searchpath, *overrides]))
            if values.get(RECIPE) == AUTO:
                words = with_chosen_recipe(values, overrides)
                values = resolve_auto(compose_words(verb, [*searchpath, *words]))
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, verb, searchpath, overrides) from error
    refuse_resume(values, "stands in a file of settings")
    refuse_unused(verb, values, parsed)
    return values


def with_tuned(
    verb: Entry, values: Mapping[str, Any], overrides: Sequence[str], parsed: Sequence[Override]
) -> list[str] | None:
    """Return the words with the experiment that `tune` wrote for a model and data; None where it is not to be used.

    Args:
        verb: whose settings these are.
        values: the composed configuration.
        overrides: that it is composed of.
        parsed: those of them that were typed.
    """
    tuned = tuned_experiment(verb, values, parsed)
    if tuned is None:
        return None
    # Nobody has typed an experiment; the sample's is a list of its own.
    below = [SAMPLE] if f"{EXPERIMENT}=[{SAMPLE}]" in overrides else []
    others = [text for text in overrides if not text.startswith(f"{EXPERIMENT}=")]
    return [*others, f"{EXPERIMENT}=[{','.join([*below, tuned])}]"]


def compose_words(verb: Entry, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose with Hydra ready, and nothing chosen that the words leave open.

    Raises:
        UserError: for YAML that cannot be read.
    """
    shadowed = _shadowed(verb)
    apart = [word for word in overrides if word.partition("=")[0] in shadowed]
    long = long_lists(overrides)
    words = [
        f"{key}=[]" if (key := word.partition("=")[0]) in long else word for word in overrides if word not in apart
    ]
    try:
        config = hydra_compose(verb.name, overrides=words, return_hydra_config=True)
        choices = config.hydra.runtime.choices
        refuse_hydra_hooks(config.hydra)
        with flag_override(config, ["struct", "readonly"], values=False):
            del config["hydra"]
        values = plain(config) | {item.key_or_group: typed_value(item) for item in parse_overrides(apart)}
        for key, items in long.items():
            above, _, name = key.rpartition(".")
            (value_at(values, above) if above else values)[name] = items
        return with_choices(values, choices)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a file below conf/"
        raise UserError(f"{where}: not YAML ({error.problem})", "a file of settings in YAML", "fix the line") from error


def _shadowed(verb: Entry) -> set[str]:
    """Return the settings that are called like a folder of conf/, which Hydra would take for a choice from it."""
    folders = {*GlobalHydra.instance().config_loader().list_groups(""), *(path.name for path in USER_CONF.glob("*/"))}
    settings = {name for name, option in verb.options.items() if option.choice is None}
    return (settings & folders) - {RECIPE, EXPERIMENT}


def refuse_hydra_hooks(hydra: Any) -> None:
    """Raise when a configuration gives Hydra itself something to do: its callbacks are code, named by `_target_`.

    Raises:
        UserError: then.
    """
    for name, found in (("hydra.callbacks", hydra.get("callbacks")), ("hydra.job.env_set", hydra.job.env_set)):
        if found:
            raise UserError(
                f"{name}: {enumerate_words(str(key) for key in found)}",
                "settings alone; no configuration can name code to run, or change the environment",
                f"leave {name} out",
            )


def with_choices(values: dict[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the name of the recipe, which leaves its settings and no node of its own."""
    return {**values, RECIPE: choices[RECIPE]} if RECIPE in choices else values


def plain(config: Any) -> dict[str, Any]:
    """Turn a composed configuration into plain values, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def completed(verb: Entry, values: Mapping[str, Any], parsed: Sequence[Override]) -> list[str] | None:
    """Name the data and the network where neither words nor files do, and say which: those of init_from, or the sample.

    Returns:
        All words; None where they are complete.
    """
    if not takes_experiments(verb):
        return None
    names_data = _names_data(values, parsed)
    inherited = inherited_words(values, parsed, names_data=names_data) or network_words(values, parsed)
    if inherited is not None:
        words, told = inherited
        log.info("%s", told)
        return words
    if names_data:
        return None
    log.info("No data.root: training on the built-in sample of handwritten digits.")
    return with_sample(parsed)


def _names_data(values: Mapping[str, Any], parsed: Sequence[Override]) -> bool:
    """Whether words or files say what to train on."""
    if any(word.key_or_group in ("data", "data.root") for word in parsed):
        return True
    node = values["data"]
    return not isinstance(node, dict) or node.get(TYPE_KEY) != "auto" or node.get("root") is not None


def with_sample(parsed: Sequence[Override]) -> list[str]:
    """Put the sample's experiment, which has its name, below the user's experiments, which thus still decide."""
    wanted: list[Any] = [[]]
    for word in parsed:
        if word.key_or_group == EXPERIMENT:
            wanted = chosen_names(word)
    listed = [names if isinstance(names, list) else [names] for names in wanted]
    chosen = ",".join(f"[{','.join([SAMPLE, *map(str, names)])}]" for names in listed)
    others = [word.input_line or "" for word in parsed if word.key_or_group != EXPERIMENT]
    return [f"{EXPERIMENT}={chosen}", *others]


def _refuse_numbers(verb: Entry, parsed: Sequence[Override]) -> None:
    """Raise when a number chooses a component, which Hydra has no words for.

    Raises:
        UserError: for the first that does.
    """
    for word in parsed:
        option = verb.options.get(word.key_or_group)
        if option is not None and option.choice is not None and isinstance(word.value(), int | float):
            refuse_names([word], group_options(verb), verb=verb.command)


def refuse_sweeps(verb: Entry, parsed: Sequence[Override]) -> None:
    """Raise when a word has several values.

    Args:
        verb: whose settings they are.
        parsed: as typed.

    Raises:
        UserError: for the first that has.
    """
    for word in parsed:
        if word.is_sweep_override():
            key, _, value = (word.input_line or "").partition("=")
            near = (near_value(option.annotation, value) for option in verb.settings_at(key))
            meant = next((f"{key}={text}" for text in near if text and text not in value.split(",")), None)
            is_text = any(option.accepts(str) for option in verb.settings_at(key)) or not verb.settings_at(key)
            typed = f", or where this is one text: {key}={shlex.quote(quoted(value))}" if is_text else ""
            raise UserError(
                f"{word.input_line}: several values for one run",
                "one value; several are for --multirun, which makes a run of each",
                meant or f"add --multirun{typed}",
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
    refuse_names(parsed, offered, verb=verb.command)
    groups = [word for word in parsed if word.key_or_group in offered]
    fixed = [word.input_line or "" for word in groups if not word.is_sweep_override()]
    swept = [[_choose(word, name) for name in chosen_names(word)] for word in groups if word.is_sweep_override()]
    firsts = [choices[0] for choices in swept]
    others = [[*fixed, choice] for choices in swept for choice in choices[1:]]
    try:
        composed = [compose_words(verb, [*searchpath, *words]) for words in ([*fixed, *firsts], *others)]
    except (HydraException, OmegaConfBaseException) as error:
        raise _uncomposable(error, verb) from error
    for values in composed:
        refuse_keys(parsed, groups=offered, values=values, verb=verb.command)
    return composed[0]


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
        f"fix that line, or see classifier-training {verb.command} --help all for groups and settings",
    )


def split_words(verb: Entry, words: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Tell the own words of a verb that passes some on from those that it passes on, as typed."""
    groups = {name for name, option in verb.options.items() if option.choice is not None}
    own = [word for word in words if word.lstrip("+~").partition("=")[0] in verb.options or _is_of(word, groups)]
    return own, tuple(word for word in words if word not in own)


def own_values(verb: Entry, words: Sequence[str]) -> dict[str, Any]:
    """Return the values of a verb that passes words on.

    Hydra sees the groups alone: it would take a setting for a group of the other verb where both are called alike, as
    data is.
    """
    groups = {name for name, option in verb.options.items() if option.choice is not None}
    options = {name: option for name, option in verb.options.items() if name not in groups}
    typed = parse_overrides([text for text in words if not _is_of(text, groups)])
    return {
        **{name: option.default for name, option in options.items() if not option.required},
        **{item.key_or_group: typed_value(item) for item in typed},
        **group_values(verb, [text for text in words if _is_of(text, groups)]),
    }


def group_values(verb: Entry, words: Sequence[str]) -> dict[str, Any]:
    """Return the values of a verb's groups, with nothing but these words composed.

    Raises:
        UserError: for a name or setting that does not exist.
    """
    groups = [name for name, option in verb.options.items() if option.choice is not None]
    if not groups:
        return {}
    with hydra_ready(verb) as searchpath:
        try:
            values = compose_words(verb, [*searchpath, *words])
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, verb, searchpath, words) from error
    return {name: values[name] for name in groups}


def chosen_launcher(verb: Entry, words: Sequence[str]) -> Any:
    """Return the launcher that words choose; None where they choose none, or that of this machine.

    Raises:
        UserError: for one that does not exist, or a wrong setting of it.
    """
    where = [text for text in words if _is_of(text, {LAUNCHER})]
    if not where or LAUNCHER not in verb.options:
        return None
    launcher = build_node(LAUNCHER, group_values(verb, prepare(verb, where))[LAUNCHER], LAUNCHER)
    return None if launcher == verb.options[LAUNCHER].default else launcher


def without_launcher(words: Sequence[str]) -> list[str]:
    """Return the words that do not say where a command runs."""
    return [text for text in words if not _is_of(text, {LAUNCHER})]


def _is_of(text: str, groups: Collection[str]) -> bool:
    """Whether a word chooses from some groups, or sets something in them."""
    return text.lstrip("+~").partition("=")[0].partition(".")[0] in groups
