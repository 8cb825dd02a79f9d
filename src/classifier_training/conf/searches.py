"""Search spaces: which settings of a family of models are searched, and where. YAML in `conf/search/`.

A file has the models of a family, the one that stands for it first, and a space:

    models: [resnet18, resnet34]
    space:
      optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
      model.dropout: {low: 0.0, high: 0.5}
      optimizer: {choices: [adamw, sgd]}

The user's own conf/search/ goes first: a file of the name of one of ours takes its place, another one adds a family.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - pydantic reads it at run time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from classifier_training.conf.store import CONF_MODULE, USER_CONF
from classifier_training.conf.validate import reason_words
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

GROUP = "search"

FALLBACK = "any"
"""The space of models that no file names."""


class Parameter(BaseModel):
    """Where a setting is searched: int or float between two ends, or some values.

    Args:
        low: least value.
        high: greatest value.
        step: between values; 1 for int when left out.
        log: whether it is sampled on a logarithmic scale.
        choices: values to choose from, instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float | None = Field(default=None, union_mode="smart")
    high: int | float | None = Field(default=None, union_mode="smart")
    step: int | float | None = Field(default=None, gt=0)
    log: bool = False
    choices: tuple[bool | int | float | str, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Parameter:
        if self.choices is not None:
            if len(self.choices) < 2 or {self.low, self.high, self.step} != {None} or self.log:
                raise ValueError("choices are two or more values, without low, high, step and log")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("low and high with low < high, or choices")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log is for values above 0, without step")
        elif self.is_whole and isinstance(self.step, float):
            raise ValueError("int with a step of a fraction")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it is an int."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> list[Any]:
        """Return values at its ends, to be tried out: all choices, or low and high."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def contains(self, value: Any) -> bool:
        """Whether a value could be sampled, steps left aside."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


class Family(BaseModel):
    """Models that are searched in the same space.

    Args:
        models: names in the register or in the user's conf/model/, the one that stands for all first.
        space: where each setting is searched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = Field(min_length=1)
    space: Mapping[str, Parameter] = Field(min_length=1)


def read_families() -> dict[str, Family]:
    """Read the search spaces, ours and the user's, by name.

    Raises:
        UserError: for a file that is no search space.
    """
    return {name: _read(name, path) for name, path in _files()}


def family_of(model: str, *, search: str | None) -> tuple[str, Family]:
    """Return the search space of a model, with its name.

    Args:
        model: its name in the register.
        search: the space that the user chose, if so.

    Raises:
        UserError: when there is none of that name, or a file is wrong.
    """
    families = read_families()
    if search is None:
        # The user's files come last, and go before ours.
        search = next((name for name in reversed(families) if model in families[name].models), FALLBACK)
    elif search not in families:
        close = nearest(search, families)
        raise UserError(
            f"search={search}: there is no search space of that name",
            f"one of {enumerate_words(families)}, or a file in {USER_CONF / GROUP}/",
            f"search={close[0] if close else FALLBACK}",
        )
    return search, families[search]


def representatives(families: Mapping[str, Family]) -> list[str]:
    """Return the model that stands for each family, of those that can be trained without a further setting."""
    ready = set(ready_models())
    found = (next((name for name in family.models if name in ready), None) for family in families.values())
    return list(dict.fromkeys(name for name in found if name is not None))


def ready_models() -> list[str]:
    """Return the registered models that need no further setting and no extra."""
    return [
        known.name
        for known in entries("model")
        if known.extra is None and not any(option.required for option in known.options.values())
    ]


def _files() -> Iterator[tuple[str, Traversable]]:
    own = Path(USER_CONF / GROUP)
    theirs = {path.stem: path for path in sorted(own.glob("*.yaml"))}
    ours = {path.name.removesuffix(".yaml"): path for path in (files(CONF_MODULE) / GROUP).iterdir()}
    yield from ((name, ours[name]) for name in sorted(ours) if name not in theirs)
    yield from theirs.items()


def _read(name: str, path: Traversable) -> Family:
    where = f"{USER_CONF / GROUP / name}.yaml"
    wanted = "models: [NAME, …] and space: {KEY: {low: …, high: …} or {choices: […]}}"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Family.model_validate(values)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML ({str(error).splitlines()[0]})", wanted, "repair the file") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{where}: {key}: {reason_words(first)}", wanted, "fix that line") from error
