"""Types and values in the words of the help and of error messages."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Union

from pydantic.fields import FieldInfo

from classifier_training.core.register import MISSING

BOUNDS = {"Gt": "> {gt}", "Ge": ">= {ge}", "Lt": "< {lt}", "Le": "<= {le}"}
NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
    timedelta: "a time (90s, 10m, 1h30m, HH:MM:SS)",
}


def type_words(annotation: Any) -> str:
    """Say what values a setting takes, bounds included."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = _bounds(arguments[1:])
        return f"{type_words(arguments[0])}{' ' if bounds else ''}{' and '.join(bounds)}"
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(argument) for argument in arguments)
    if origin in (list, tuple):
        return f"[{type_words(arguments[0])}, …]"
    if origin in (dict, Mapping):
        return f"{{name: {type_words(arguments[1])}, …}}"
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
    return [
        BOUNDS[type(part).__name__].format(**{name: _plain(value) for name, value in vars(part).items()})
        if hasattr(part, "__dict__")
        else _slotted(part)
        for part in constraints
        if type(part).__name__ in BOUNDS
    ]


def _slotted(part: Any) -> str:
    key = type(part).__name__.lower()
    return BOUNDS[type(part).__name__].format(**{key: _plain(getattr(part, key))})


def _plain(value: Any) -> Any:
    return f"{value.total_seconds():g} s" if isinstance(value, timedelta) else value
