"""The value that was meant, where it is written in a way that the type of its setting does not read: 20%, 0,2, 5min."""

from __future__ import annotations

import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

UNITS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
}
UNIT = {word: unit for unit, words in UNITS.items() for word in words}

NUMBER = r"\d+(?:[.,]\d+)?"

LEAST_PERCENTAGE = 5
"""A number from which on a share between 0 and 1 was meant in percent."""


def near_value(annotation: Any, typed: str) -> str | None:
    """Return the value that was meant, as it is typed here.

    Args:
        annotation: the type of the setting.
        typed: a value that is not of this type.

    Returns:
        A value of the type; None where none is near.
    """
    text = typed.strip()
    if (match := re.fullmatch(rf"({NUMBER})\s*%", text)) and _fits(annotation, "99") and not _fits(annotation, "101"):
        # The setting is in points of a hundred itself.
        return f"{float(match[1].replace(',', '.')):g}"
    return next((text for text in _readings(text) if text != typed and _fits(annotation, text)), None)


def _readings(text: str) -> list[str]:
    found = []
    if match := re.fullmatch(rf"({NUMBER})\s*%", text):
        found.append(f"{float(match[1].replace(',', '.')) / 100:g}")
    if re.fullmatch(NUMBER, text):
        found.append(text.replace(",", "."))
    if sides := re.fullmatch(r"[(\[]?(?:3[\sx,]+)?(\d+)[\sx,]+(\d+)[)\]]?", text):
        # The side of a square, or the longer one.
        found.append(str(max(int(sides[1]), int(sides[2]))))
    if (bare := text.strip("[]() ,;")) and not re.search(r"[\s,;]", bare):
        # A bracket or comma too many.
        found.append(bare)
    if re.fullmatch(r"\d{1,3}([,_. ]\d{3})+", text):
        found.append(re.sub(r"\D", "", text))
    if match := re.fullmatch(
        rf"({NUMBER})\s*(px|pixels|epochs?|images?|workers?|gb|mi?b|ms|points?|x)", text.casefold()
    ):
        found.append(match[1].replace(",", "."))
    if re.fullmatch(r"\d+(\.\d*)?(e\+?\d+)?", text.casefold()) and float(text).is_integer():
        found.append(str(int(float(text))))
    parts = re.findall(rf"({NUMBER})\s*([a-z]+)", text.casefold())
    if parts and all(unit in UNIT for _, unit in parts) and not re.sub(rf"{NUMBER}|[a-z\s]", "", text.casefold()):
        found.append("".join(f"{number.replace(',', '.')}{UNIT[unit]}" for number, unit in parts))
    if re.fullmatch(NUMBER, text) and LEAST_PERCENTAGE <= float(text.replace(",", ".")) <= 100:
        found.append(f"{float(text.replace(',', '.')) / 100:g}")
    return found


def _fits(annotation: Any, text: str) -> bool:
    try:
        TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        return False
    return True
