"""What a setting says of itself beside its type, and types that several components share.

What the program must know about a setting stands in its annotation, as in
`num_workers: Annotated[int, Resume.EXACT, Trait.MACHINE]`, and is read through `Option` and `Entry`. The parameter of a
verb that is filled from a group says it for all settings of the group that do not say it themselves.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from classifier_training.core.storage.places import is_remote, without_secrets


class Resume(Enum):
    """What another value of a setting does to a run that is resumed. Each setting of `train` has one."""

    EXACT = "no weight depends on it: the run stays what it would have been"
    LIMIT = "as EXACT; but it may have ended training, so that a run that was at its end trains on"
    DIVERGES = "it may change, and from there on the run is another one"
    FIXED = "it cannot change"


class Fit(Enum):
    """Which models a setting has an effect on. Each setting of `train` has one."""

    EPOCHS = "networks, which are trained in epochs"
    ANY = "models that are fitted at once, too"


class Trait(Enum):
    """What else a setting is; most are none of these."""

    SEED = "runs that differ in it alone are repetitions of one"
    PLACE = "where the run folder lies, which says nothing on the run"
    START = "belongs to one start of a run and is not kept for the next"
    PRESET = "names what other settings came from, which are saved themselves"
    MACHINE = "another machine may need another value: folders, loader processes, disk, device, loggers"
    PROMOTES = "gives a finished run to production, which no verb of many runs does with each of its runs"
    SPLIT = "decides which images are held out, unless the data or a splits.csv says so"


class Names(Enum):
    """What the text of a setting names. Such a text is taken as it is typed, whatever characters it has."""

    PATH = "a file or folder"
    RUN = "a run: its folder, latest, best, or a name or alias of the registry"


class Often:
    """Marks a setting that is used often: the short help of a verb shows it.

    Args:
        place: its place there among others, the lowest first.
    """

    def __init__(self, place: int) -> None:
        self.place = place


class OnlyIn:
    """Marks a setting that has an effect in some of the verbs that take its group.

    Args:
        verbs: their names.
    """

    def __init__(self, *verbs: str) -> None:
        self.verbs = frozenset(verbs)


class Alias:
    """Marks a setting with the words that other programs have for it; each is accepted in its place.

    Args:
        words: the first stands in the help.
    """

    def __init__(self, *words: str) -> None:
        self.words = words


def absolute(path: str) -> str:
    """Return a path that means the same wherever the run is resumed."""
    if is_remote(path):
        return without_secrets(path)
    # Unlike pathlib's, this leaves alone a path that begins with ~ and names nobody.
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111


PathText = Annotated[str, Names.PATH, AfterValidator(absolute)]
"""A file or folder of the user's, saved as an absolute path."""

TypedPath = Annotated[str, Names.PATH]
"""A file or folder of the user's, as it was typed."""

RunText = Annotated[str, Names.RUN]
"""A run: its folder, latest, best, NAME, NAME:v2, or an alias such as production."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def in_seconds(value: Any) -> Any:
    """Read 90s, 10m, 1h30m or 2d as seconds; anything else is left as it is."""
    if isinstance(value, str) and re.fullmatch(r"(\d+(\.\d+)?[smhd])+", value.strip()):
        return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", value))
    return value


Duration = Annotated[timedelta, BeforeValidator(in_seconds), Field(gt=timedelta(0))]
"""A length of time: 90s, 10m, 1h30m, HH:MM:SS, or seconds."""


SHORTEST_BARE = 60
"""Seconds below which a number without a unit is rather meant in minutes."""


def with_unit(value: Any) -> Any:
    """Refuse a small number without a unit, such as 5, which reads as minutes and would be seconds.

    Raises:
        ValueError: then.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < SHORTEST_BARE:
        raise ValueError(f"{value} seconds or minutes? It has no unit")
    return value


def in_braces(value: Any) -> Any:
    """Read the text of a mapping in braces as YAML, which takes keys of every language; else return the value."""
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


Pretrained = bool | Literal["auto"]
"""Whether a network starts from trained weights; auto: yes where there are some, unless a file or a run gives them."""
