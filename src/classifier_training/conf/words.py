"""Types and values as the help and error messages write them."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Union

from pydantic.fields import FieldInfo

from classifier_training.core.register import MISSING

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
