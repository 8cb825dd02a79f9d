"""The type and range of every setting, checked against the signature it came from."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from classifier_training.conf.words import type_words, value_words
from classifier_training.core.errors import UserError, enumerate_words, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.register import Entry

MISSING_MARK = "???"
"""What Hydra leaves where a value must be given and was not."""


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
        raise _explain(error, known, prefix) from error
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


def _explain(error: ValidationError, known: Entry, prefix: str) -> UserError:
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
        return UserError(f"{key} is missing", f"{wanted}: {option.help}", f"{key}=…")
    suggestion = f"{key}={value_words(option.default)}" if not option.required else f"{key}=…"
    if close := _near_literals(str(first["input"]), option.annotation):
        suggestion = f"{key}={close[0]}"
    where = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str) and part in str(first["input"]))
    came = f"{key}{'.' if where else ''}{where}={value_words(first['input'])}"
    return UserError(f"{came}: {first['msg'][0].lower()}{first['msg'][1:]}", wanted, suggestion)


def unknown_key(key: str, came: str, known_keys: list[str], *, verb: str = "train") -> UserError:
    """Return the error for a setting that does not exist."""
    parent, _, name = key.rpartition(".")
    siblings = {known.rpartition(".")[2]: known for known in known_keys if known.rpartition(".")[0] == parent}
    # Below a group that exists, only its own settings are candidates; its name alone would make all of them similar.
    close = [siblings[word] for word in nearest(name, siblings)] if parent and siblings else nearest(key, known_keys)
    listed = close or list(siblings.values()) or known_keys
    remedy = f"classifier-training {verb} --help lists them all"
    if close:
        remedy = f"{close[0]}={came.partition('=')[2] or '…'}"
    return UserError(f"{came}: there is no such setting", f"one of {enumerate_words(listed)}", remedy)


def _near_literals(typed: str, annotation: Any) -> list[str]:
    """The choices of a setting that are spelt alike, such as 16-mixed for 16 and 32 for 32-true."""
    literals = _literals(annotation)
    begun = [word for word in literals if word.startswith(f"{typed}-") or typed.startswith(f"{word}-")]
    return begun or nearest(typed, literals)


def _literals(annotation: Any) -> list[str]:
    return type_words(annotation).split(" | ")
