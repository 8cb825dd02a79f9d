"""Overrides as they are typed: parsed, made fit for Hydra, and the wrong one found when Hydra could not compose."""

from __future__ import annotations

import functools
import json
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from classifier_training.conf.validate import nothing_to_choose, unknown_key
from classifier_training.core.errors import UserError, enumerate_words, first_line, nearest
from classifier_training.core.register import TYPE_KEY, VERB, Replaces, entries, entry
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import Trait
from classifier_training.models.names import named_network, nearest_networks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.core.register import Entry


PLAIN_TEXT = re.compile(r"[\w./@%+-]+", re.ASCII)
"""Text that the configuration's grammar accepts without quotes."""

LONG = 10_000
"""Characters from which on a list is read without the grammar."""

NO_TEXT = re.compile(r"[+-]?\.?\d.*|[+-]?(nan|inf)|true|false|null", re.IGNORECASE)
"""Text that it would take for a number, a truth value or nothing, among others."""


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides one by one, so that the wrong one can be named.

    Raises:
        UserError: for a word that is no override.
    """
    parsed = []
    for word in overrides:
        try:
            parsed.append(_parse(word))
        except HydraException as error:
            key, equals, value = word.partition("=")
            if value.startswith("{") and value.endswith("}"):
                # The grammar knows the keys of few languages; such a setting reads the text as YAML.
                parsed.append(_parse(f"{key}={quoted(value)}"))
                continue
            if not equals:
                remedy = f"{word}=…"
            elif value.startswith(("{", "[")):
                remedy = "in braces and brackets words go without quotes: sampler.weights={cat: 4, 10: 2}"
            else:
                typed = f"{key}={shlex.quote(quoted(value))}"
                remedy = f"{typed}   (quotes, for a text with special characters)"
            raise UserError(
                f"{word}: not a setting ({str(error).partition(chr(10))[0]})",
                "group=name or group.key=value",
                remedy,
            ) from error
    return parsed


@functools.lru_cache(maxsize=512)
def _parse(word: str) -> Override:
    """Parse an override; the words of a command come several times."""
    items = _listed(word) if len(word) >= LONG else None
    if items is None:
        return OverridesParser.create().parse_override(word)
    value = [QuotedString(text=item, quote=Quote.double) for item in items]
    key = word.partition("=")[0]
    return Override(OverrideType.CHANGE, key, value_type=ValueType.ELEMENT, _value=value, input_line=word)


def _listed(word: str) -> list[str] | None:
    """Return the items of a long list of quoted texts, for which the grammar takes quadratic time; None for others."""
    found = re.fullmatch(r"[\w.]+=\[(.*)\]", word, re.DOTALL)
    inside = "" if found is None else found[1]
    items = re.findall(r'"((?:[^"\\]|\\.)*)"', inside, re.DOTALL)
    if ",".join(f'"{item}"' for item in items) != inside:
        return None
    return [re.sub(r'(\\+)("|$)', lambda ends: ends[1][: len(ends[1]) // 2] + ends[2], item) for item in items]


def long_lists(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return the long lists of texts, such as thousands of files, by their keys; Hydra need not see these."""
    parsed = parse_overrides([word for word in overrides if len(word) >= LONG and _listed(word) is not None])
    return {word.key_or_group: typed_value(word) for word in parsed}


def prepare(verb: Entry, words: Sequence[str]) -> list[str]:
    """Return the same settings in words that Hydra composes.

    A text that looks like a number or like true stays the text that was typed, and a group may be set to null.

    Raises:
        UserError: for a word that is no setting, has no value, or takes away what the verb cannot do without.
    """
    return [_prepare(verb, override) for override in parse_overrides(words)]


def quoted(value: object, *, as_text: bool = False, always: bool = False) -> str:
    """Return a text for the configuration's grammar, in quotation marks if it needs some.

    Args:
        value: the text, or what is written as one.
        as_text: keep a text that looks like a number, true or null from being one.
        always: whether it is in quotation marks in any case.
    """
    text = str(value)
    if PLAIN_TEXT.fullmatch(text) and not always and not (as_text and NO_TEXT.fullmatch(text)):
        return text
    # A dollar sign and a brace would begin a reference; backslashes count only there and before a quotation mark.
    escaped = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + "\\${", text)
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + found[2].replace('"', '\\"'), escaped)
    return f'"{escaped}"'


def word(key: str, value: object) -> str:
    """Return key=value for the configuration's grammar; no shell sees it."""
    return f"{key}={quoted(value)}"


def written(key: str, value: object) -> str:
    """Write a value in the configuration's grammar, such that a text stays a text; see `quoted`.

    Args:
        key: of the setting, for messages.
        value: null, a text, path, number, true or false, or a list or mapping of these.

    Raises:
        UserError: for a value of another type.
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str | Path):
        return quoted(value, as_text=True)
    if isinstance(value, Real):
        return str(value)
    if isinstance(value, Mapping):
        # The grammar takes few texts for keys; a setting with a mapping reads it as YAML, of which JSON is a part.
        return quoted(json.dumps(value, ensure_ascii=False, default=str))
    if isinstance(value, Sequence):
        return f"[{','.join(written(key, item) for item in value)}]"
    raise UserError(
        f"{key} is of the type {type(value).__name__}",
        "a text, a path, a number, True, False, None, or a list or dict of these",
        f'settings={{"{key}": …}} with such a value',
    )


def typed_value(override: Override) -> Any:
    """Return the value of an override, with what was escaped for the grammar as it was typed.

    Raises:
        UserError: for a reference to a setting, which only a whole configuration can resolve.
    """
    try:
        found = OmegaConf.to_container(OmegaConf.create({"value": override.value()}), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(
            f"{override.input_line}: {first_line(error)}", "a value without references to others", "type it out"
        ) from error
    return found["value"]  # type: ignore[index, call-overload]


def written_instead(verb: Entry, key: str) -> str | None:
    """Return what is written instead of a setting that a verb sets for each of the runs that it makes.

    Args:
        verb: one that passes words on.
        key: of the other verb.

    Returns:
        The settings of its own that stand for it; None for a setting that may be typed.
    """
    passes = verb.settings_of
    assert passes is not None
    replaced = {name: mark.keys for name, option in verb.options.items() if (mark := option.mark(Replaces))}
    for wanted in (key, f"{key.partition('.')[0]}.*"):
        for name, keys in replaced.items():
            if wanted in keys:
                return f"{name}=…"
    traits = entry(VERB, passes.verb).traits(key)
    if Trait.START in traits:
        return passes.resumed_by
    if Trait.PROMOTES in traits:
        return f"{command('registry')} promote run=RUN, for the run that you choose"
    if Trait.PLACE in traits and key not in verb.options:
        return next(f"{name}=…" for name, option in verb.options.items() if Trait.PLACE in option.traits)
    return None


def _prepare(verb: Entry, override: Override) -> str:
    line, key = override.input_line or "", override.key_or_group
    value = override.value()
    if line.endswith("=") and value == "":
        raise UserError(
            f"{line} has no value",
            "something after the equals sign; a shell variable that is not set leaves nothing",
            f"{key}=…, or leave it out",
        )
    option = verb.options.get(key)
    if line == "experiment=null":
        return "experiment=[]"
    if option is not None and option.choice is not None:
        if option.fixed is not None:
            return line
        if value is not None:
            return line
        if option.choice.default is not None and not option.choice.many:
            raise UserError(
                f"{line}: {verb.command} cannot do without {key}",
                f"one {key} of those that classifier-training {verb.command} --help all lists",
                f"{key}={option.choice.default}",
            )
        return f"{key}=[]"
    if isinstance(value, (bool, int, float)) and not override.is_sweep_override() and _takes_text(verb, key):
        return f"{key}='{line.partition('=')[2].strip()}'"
    return line


def _takes_text(verb: Entry, key: str) -> bool:
    group, _, name = key.rpartition(".")
    components = entries(group.partition(".")[0]) if group else [verb]
    annotations = [item.options[name].annotation for item in components if name in item.options]
    return bool(annotations) and all(map(_is_text, annotations))


def _is_text(annotation: Any) -> bool:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return _is_text(arguments[0])
    return annotation is str or (bool(arguments) and all(item is type(None) or _is_text(item) for item in arguments))


def refuse_names(parsed: Sequence[Override], offered: Mapping[str, Sequence[str]], *, verb: str) -> None:
    """Find the first override that chooses what a group does not have.

    Args:
        parsed: as typed.
        offered: the names that can be chosen from each group.
        verb: whose help lists them.

    Raises:
        UserError: for it, with the nearest right spelling.
    """
    for override in parsed:
        group = override.key_or_group
        if group not in offered or override.type is OverrideType.DEL:
            continue
        for names in chosen_names(override):
            for name in names if isinstance(names, list) else [names]:
                if name is not None and str(name) not in offered[group]:
                    raise _unknown_name(group, str(name), offered[group], verb)


FORMER_NAMES = {
    "callbacks": {"patient": "early_stopping_long"},
    "loss": {"smooth": "label_smoothing"},
    "optimizer": {"brisk": "adamw_scratch", "gentle": "adamw_finetune"},
    "transfer": {"features": "linear_probe", "probe": "lp_ft", "progressive": "progressive_unfreezing"},
    "transforms": {"growing": "progressive_resizing", "shaky": "affine"},
}
"""Names that components had in earlier versions, by group."""


def _unknown_name(group: str, name: str, options: Sequence[str], verb: str) -> UserError:
    former = FORMER_NAMES.get(group, {}).get(name)
    close = [former] if former else nearest(name, options)
    remedy = f"{group}={close[0]}" if close else f"classifier-training {verb} --help all lists them"
    if group == "model" and not former and (networks := nearest_networks(name)):
        remedy = " ".join(f"{key}={value}" for key, value in (named_network(networks[0]) or {}).items())
    elif group == "data" and not close:
        remedy = f"data.root={name}   (if it is a folder or file)"
    return UserError(f"{group}={name}: there is no {group} of that name", f"one of {enumerate_words(options)}", remedy)


def chosen_names(override: Override) -> list[Any]:
    """List what an override chooses, one value for each run of a sweep."""
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def refuse_keys(parsed: Sequence[Override], *, groups: Iterable[str], values: Mapping[str, Any], verb: str) -> None:
    """Find the first override of a key that does not exist.

    Args:
        parsed: as typed.
        groups: the groups that a name can be chosen from.
        values: the configuration without these overrides.
        verb: whose help lists the keys.

    Raises:
        UserError: for it, with the nearest right spelling.
    """
    keys = list(leaf_keys(values))
    found = {group: values.get(group) for group in groups}
    nodes = {group: node if isinstance(node, dict) else {} for group, node in found.items()}
    keys += [f"{group}.{name}" for group, node in nodes.items() for name in node if isinstance(node[name], dict)]
    for override in parsed:
        key = override.key_or_group
        if key.startswith("hydra") or key in nodes:
            continue
        if isinstance(values.get(key), dict):
            raise nothing_to_choose(override.input_line or key, list(leaf_keys(values[key], f"{key}.")))
        if override.type in (OverrideType.CHANGE, OverrideType.DEL) and not has_key(values, key):
            if key.partition(".")[0] in found and (error := _of_another(key, override, found)) is not None:
                raise error
            raise unknown_key(key, override.input_line or key, [*keys, *nodes], verb=verb)


def _of_another(key: str, override: Override, found: Mapping[str, Any]) -> UserError | None:
    """The error for a setting that one component of a group has, when that is not the one chosen.

    Where several have it, the one that needs no other setting is meant.
    """
    group, _, name = key.partition(".")
    having = [item for item in entries(group) if name in item.options]
    complete = [item for item in having if not any(option.required for option in item.options.values())]
    owners = [item.name for item in (having if len(having) == 1 else complete)]
    if len(owners) != 1:
        return _needed_instead(group, override, found[group]) if having else None
    (owner,), node, came = owners, found[group], override.input_line or key
    if isinstance(node, dict) and TYPE_KEY not in node:  # several can be chosen, each with settings below its name
        there = [] if owner in node else [f"{group}={owner}" if not node else f"{group}=[{','.join([*node, owner])}]"]
        line = came.replace(key, f"{group}.{owner}.{name}", 1)
        return UserError(f"{came}: there is no such setting", line, shlex.join([*there, line]))
    if isinstance(node, dict) and node[TYPE_KEY] == owner:  # of another verb, whose group has the same name
        return None
    chosen = f"no {group}= is chosen" if node is None else f"{group}={node[TYPE_KEY]} has no such setting"
    expected = f"a setting of the chosen {group}; {group}={owner} has this one"
    return UserError(f"{came}: {chosen}", expected, shlex.join([f"{group}={owner}", came]))


def _needed_instead(group: str, override: Override, node: Any) -> UserError | None:
    """The error for a setting of other components where the chosen one lacks a value, which the given one may be."""
    if not isinstance(node, dict) or TYPE_KEY not in node:
        return None
    lacking = [name for name, option in entry(group, node[TYPE_KEY]).options.items() if option.required]
    if len(lacking) != 1:
        return None
    (name,), came = lacking, override.input_line or override.key_or_group
    why = f"{group}={node[TYPE_KEY]} has no such setting"
    remedy = setting(f"{group}.{name}", override.value())
    return UserError(f"{came}: {why}", f"{group}.{name}, which {group}={node[TYPE_KEY]} needs", remedy)


def leaf_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every value that can be set; which component it is of is chosen by its group."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaf_keys(value, f"{prefix}{name}.")
        elif name != TYPE_KEY:
            yield f"{prefix}{name}"


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """Return the value that a dotted key leads to."""
    node: Any = values
    for part in key.split("."):
        node = node[part]
    return node


def has_key(values: Mapping[str, Any], key: str) -> bool:
    """Whether a dotted key leads to a value."""
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True
