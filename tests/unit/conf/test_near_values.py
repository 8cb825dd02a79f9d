"""Values that are written in a way that their setting does not read, and what was meant."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter

from classifier_training.conf.near_values import near_value
from classifier_training.core.settings import Duration

SHARE = Annotated[float, Field(gt=0, lt=1)] | None
POINTS = Annotated[float, Field(ge=0, lt=100)]
RATE = Annotated[float, Field(gt=0)] | Literal["auto"]
SIDE = Annotated[int, Field(ge=8)] | Literal["auto"] | None


@pytest.mark.parametrize(
    ("annotation", "typed", "meant"),
    [
        (SHARE, "20%", "0.2"),
        (SHARE, "0,2", "0.2"),
        (SHARE, "12.5 %", "0.125"),
        (SHARE, "95", "0.95"),
        (RATE, "0,001", "0.001"),
        (RATE, "1e-3,", "1e-3"),
        (SIDE, "[64", "64"),
        (SIDE, "224px", "224"),
        (SIDE, "224x224", "224"),
        (SIDE, "[480, 640]", "640"),
        (SIDE, "3 224 224", "224"),
        (SIDE, "224.0", "224"),
        (SIDE, "1e3", "1000"),
        (SIDE, "1,000", "1000"),
        (POINTS | None, "2%", "2"),
        (POINTS | None, "1.5 points", "1.5"),
        (RATE, "10ms", "10"),
        (RATE, "5MB", "5"),
        (Duration | None, "5min", "5m"),
        (Duration | None, "90 seconds", "90s"),
        (Duration | None, "1,5 hours", "1.5h"),
        (Duration | None, "1h 30min", "1h30m"),
    ],
)
def test_the_value_that_was_meant(annotation: Any, typed: str, meant: str) -> None:
    assert near_value(annotation, typed) == meant
    TypeAdapter(annotation).validate_python(meant)


@pytest.mark.parametrize(
    ("annotation", "typed"),
    [
        (SHARE, "200%"),
        (SHARE, "200"),
        (SHARE, "1"),
        (SHARE, "half"),
        (SIDE, "5%"),
        (SIDE, "4px"),
        (SIDE, "small"),
        (Duration | None, "soon"),
    ],
)
def test_nothing_is_near(annotation: Any, typed: str) -> None:
    assert near_value(annotation, typed) is None


def test_a_number_beyond_all_floats_is_near_nothing() -> None:
    assert near_value(SHARE, "1e400") is None
