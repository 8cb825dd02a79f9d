"""Types of settings that several components share."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field


def absolute(path: str) -> str:
    """Return a path that means the same wherever the run is taken up again."""
    return str(Path(path).expanduser().absolute())


PathText = Annotated[str, AfterValidator(absolute)]
"""A file or folder of the user's."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def in_seconds(value: Any) -> Any:
    """Read 90s, 10m, 1h30m or 2d as seconds; anything else is left as it is."""
    if isinstance(value, str) and re.fullmatch(r"(\d+(\.\d+)?[smhd])+", value.strip()):
        return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", value))
    return value


Duration = Annotated[timedelta, BeforeValidator(in_seconds), Field(gt=timedelta(0))]
"""A length of time: 90s, 10m, 1h30m, HH:MM:SS, or seconds."""

Pretrained = bool | Literal["auto"]
"""Whether a network starts from trained weights; auto: yes where there are some, unless a file or a run gives them."""
