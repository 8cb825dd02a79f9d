from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import Field

from classifier_training.core import register as module
from classifier_training.core.errors import UserError
from classifier_training.core.register import argument_help, describe, entries, entry, register

if TYPE_CHECKING:
    from torch import Tensor


@pytest.fixture(autouse=True)
def empty_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_entries", {})
    monkeypatch.setattr(module, "_by_target", {})
    return


@dataclass(frozen=True, kw_only=True)
class Base:
    """Shared.

    Args:
        size: how large it is,
            in pixels.
    """

    size: Annotated[int, Field(gt=0)] = 3


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """A thing.

    Args:
        name: what it is called.
    """

    name: str


def build(images: Tensor, *, scale: float = 2.0) -> Any:
    """Scale images.

    Args:
        scale: by how much.
    """
    return images * scale


def test_settings_are_keyword_only_parameters_and_inherited_fields() -> None:
    register(group="thing", name="derived")(Derived)
    register(group="thing", name="build")(build)
    derived, built = entry("thing", "derived"), entry("thing", "build")
    assert list(derived.options) == ["size", "name"]
    assert derived.options["size"].help == "how large it is, in pixels."
    assert derived.options["name"].required
    assert list(built.options) == ["scale"]
    assert built.options["scale"].annotation is float
    assert built.summary == "Scale images."


def test_a_class_is_built_at_once_and_a_function_with_positional_parameters_waits() -> None:
    register(group="thing", name="derived")(Derived)
    register(group="thing", name="build")(build)
    assert entry("thing", "derived").build({"name": "x"}) == Derived(name="x")
    waiting = entry("thing", "build").build({"scale": 5.0})
    assert isinstance(waiting, functools.partial)
    assert waiting(2) == 10


def test_describe_undoes_build() -> None:
    register(group="thing", name="derived")(Derived)
    register(group="thing", name="build")(build)
    built = {"a": Derived(name="x", size=4), "b": functools.partial(build), "c": {"d": 1}}
    assert describe(built) == {
        "a": {"type": "derived", "size": 4, "name": "x"},
        "b": {"type": "build", "scale": 2.0},
        "c": {"d": 1},
    }


def test_a_name_is_given_once() -> None:
    register(group="thing", name="derived")(Derived)
    with pytest.raises(ValueError, match="registered twice"):
        register(group="thing", name="derived")(Base)


def test_a_wrong_name_gets_the_nearest_one() -> None:
    register(group="thing", name="derived")(Derived)
    assert [item.name for item in entries("thing")] == ["derived"]
    with pytest.raises(UserError) as caught:
        entry("thing", "derive")
    assert caught.value.remedy == "thing=derived"


def test_argument_help_reads_the_section_and_stops_at_the_next() -> None:
    docstring = """Do it.

    Args:
        first: one,
            over two lines.
        second: two.

    Raises:
        ValueError: never.
    """
    assert argument_help(docstring) == {"first": "one, over two lines.", "second": "two."}
    assert argument_help("No section.") == {}
