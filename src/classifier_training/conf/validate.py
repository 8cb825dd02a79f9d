"""From plain values to the validated arguments of a verb, and how types and values are written in messages and help."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

import classifier_training.conf.catalogue  # noqa: F401 - fills the register
from classifier_training.conf.near_values import near_value
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import MISSING, TYPE_KEY, entry
from classifier_training.core.runtime import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

    from classifier_training.core.register import Entry, Option

MISSING_MARK = "???"
"""What Hydra leaves where a value must be given and was not."""


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
                    f"{name} is null, and {verb.command} cannot do without",
                    f"one {name} of those that classifier-training {verb.command} --help all lists",
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


def build(known: Entry, settings: Mapping[str, Any], *, prefix: str) -> Any:
    """Validate a component's settings and build it.

    Args:
        known: the component.
        settings: plain values.
        prefix: what stands before a setting's name on the command line, such as "optimizer.".

    Raises:
        UserError: for an unknown key, a wrong type or a value out of range.
    """
    return known.build(validate(known, settings, prefix=prefix))


def validate(known: Entry, settings: Mapping[str, Any], *, prefix: str) -> dict[str, Any]:
    """Return the settings with their types set right; see `build`."""
    given = {name: value for name, value in settings.items() if value != MISSING_MARK}
    model = _model(known)
    try:
        checked = model.model_validate(given)
    except ValidationError as error:
        raise _explain(error, known, prefix, given) from error
    return {name: getattr(checked, name) for name in model.model_fields}


@functools.cache
def _model(known: Entry) -> type[BaseModel]:
    fields = {
        option.name: (option.annotation, ... if option.required else option.default)
        for option in known.options.values()
        if option.choice is None
    }
    # YAML makes numbers of names such as 2024.
    config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    return create_model(known.name, __config__=config, **fields)  # type: ignore[call-overload, no-any-return]


def _explain(error: ValidationError, known: Entry, prefix: str, given: Mapping[str, Any]) -> UserError:
    first = error.errors()[0]
    name = str(first["loc"][0])
    key = f"{prefix}{name}"
    if first["type"] == "extra_forbidden":
        return unknown_key(
            key,
            f"{key}={value_words(first['input'])}",
            [f"{prefix}{option}" for option in known.options],
            verb=known.command if known.is_verb else "train",
        )
    option = known.options[name]
    wanted = type_words(option.annotation)
    if first["type"] == "missing":
        example = command(known.examples[0]) if known.examples and name in known.words else f"{key}=…"
        return UserError(f"{key} is missing", f"{wanted}: {option.help}", example)
    suggestion = f"{key}={example}" if (example := _example(option)) else f"leave {key} out"
    if close := _near_literals(str(first["input"]), option.annotation):
        suggestion = f"{key}={close[0]}"
    if (near := near_value(option.annotation, str(first["input"]))) is not None:
        suggestion = f"{key}={near}"
    if option.accepts(timedelta) and str(first["input"]).isdigit() and int(first["input"]):
        suggestion = f"{key}={first['input']}m"
    # Other parts of the place are pydantic's names of the types that were tried.
    typed = given.get(name)
    keys = set(typed) if isinstance(typed, Mapping) else set()
    where = ".".join(
        part for part in first["loc"][1:] if isinstance(part, str) and (part in keys or part in str(first["input"]))
    )
    came = f"{key}{'.' if where else ''}{where}={value_words(first['input'])}"
    return UserError(f"{came}: {reason_words(first)}", wanted, suggestion)


REASONS = {
    "extra_forbidden": "there is no such key",
    "greater_than": "not above {gt}",
    "greater_than_equal": "below {ge}",
    "less_than": "not below {lt}",
    "less_than_equal": "above {le}",
    "literal_error": "no such choice",
    "bool": "neither true nor false",
    "int": "not a whole number",
    "float": "not a number",
    "time_delta": "not a duration",
    "string": "not a text",
    "list": "not a list",
    "dict": "not a mapping",
    "tuple": "not a list",
}
"""Why a value is refused, by pydantic's name for the error or by what it begins with; the type stands beside it."""


def reason_words(error: ErrorDetails) -> str:
    """Say why a value is refused, in words of the command line and not of the library that checks it."""
    kind, context = error["type"], error.get("ctx", {})
    words = REASONS.get(kind) or next((REASONS[name] for name in REASONS if kind.startswith(f"{name}_")), None)
    if "datetime.timedelta(0)" in context.values():
        return "no time at all"
    if words is not None:
        return words.format(**{name: value_words(value) for name, value in context.items()})
    return str(context["error"]) if kind == "value_error" else f"{error['msg'][0].lower()}{error['msg'][1:]}"


def _example(option: Option) -> str:
    """A value that makes sense for a setting; an empty text where its type tells none."""
    if option.required:
        return "…"
    if option.default is not None:
        return value_words(option.default)
    words = [str(value) for value in option.literals if value is not None]
    return words[0] if words else "10m" if option.accepts(timedelta) else ""


def unknown_key(key: str, came: str, known_keys: list[str], *, verb: str = "train") -> UserError:
    """Return the error for a setting that does not exist."""
    if not known_keys:
        remedy = f"classifier-training {verb} --help lists them"
        return UserError(f"{came}: {verb} has no settings of its own", f"one of its sub-verbs before {came}", remedy)
    parent, _, name = key.rpartition(".")
    siblings = {known.rpartition(".")[2]: known for known in known_keys if known.rpartition(".")[0] == parent}
    # Below a group that exists, only its own settings are candidates; its name alone would make all of them similar.
    close = [siblings[word] for word in nearest(name, siblings)] if parent and siblings else nearest(key, known_keys)
    listed = close or list(siblings.values()) or known_keys
    remedy = f"classifier-training {verb} --help all lists them"
    if close:
        remedy = f"{close[0]}={came.partition('=')[2] or '…'}"
    return UserError(f"{came}: there is no such setting", f"one of {enumerate_words(listed)}", remedy)


def nothing_to_choose(came: str, keys: Sequence[str]) -> UserError:
    """Return the error for a name given to what is no group of this verb."""
    return UserError(f"{came}: there is nothing to choose", f"one of {enumerate_words(keys)}", f"{keys[0]}=…")


def _near_literals(typed: str, annotation: Any) -> list[str]:
    """The choices of a setting that are written alike, such as 16-mixed for 16 and 32 for 32-true."""
    literals = _literals(annotation)
    begun = [word for word in literals if word.startswith(f"{typed}-") or typed.startswith(f"{word}-")]
    return begun or nearest(typed, literals)


def _literals(annotation: Any) -> list[str]:
    return type_words(annotation).split(" | ")


BOUNDS = {"Gt": "> {gt}", "Ge": ">= {ge}", "Lt": "< {lt}", "Le": "<= {le}"}
NAMES = {type(None): "null", timedelta: "duration (90s, 10m, 1h30m, HH:MM:SS)"}

LARGEST = 2**53
"""A bound from which on it is the machine's and not the setting's."""


def type_words(annotation: Any) -> str:
    """Write a type as Python does, bounds included."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = _bounds(arguments[1:])
        return f"{type_words(arguments[0])}{' ' if bounds else ''}{', '.join(bounds)}"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(type_words(argument) for argument in arguments)
    if origin in (list, tuple):
        return f"list[{type_words(arguments[0])}]"
    if origin in (dict, Mapping):
        return f"dict[str, {type_words(arguments[1])}]"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def value_words(value: Any) -> str:
    """Write a value as it is typed on the command line."""
    if value is MISSING:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(value_words, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bounds(metadata: tuple[Any, ...]) -> list[str]:
    constraints = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    found = []
    for part in constraints:
        name = type(part).__name__
        if name in BOUNDS:
            value = getattr(part, name.lower())
            if isinstance(value, timedelta) or abs(value) < LARGEST:
                found.append(BOUNDS[name].format(**{name.lower(): _plain(value)}))
    return found


def _plain(value: Any) -> Any:
    return f"{value.total_seconds():g} s" if isinstance(value, timedelta) else value
