from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import Field

from classifier_training.core import register as module
from classifier_training.core.errors import UserError
from classifier_training.core.register import (
    Choice,
    Entry,
    argument_help,
    changed_options,
    describe,
    entries,
    entry,
    entry_of,
    register,
)
from classifier_training.core.settings import Fit, OnlyIn, Resume, Trait

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


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A thing."""

    size: Annotated[int | None, Resume.EXACT, Trait.MACHINE, OnlyIn("work")] = None
    name: str = "x"


def work(
    *,
    thing: Annotated[Marked, Choice("marked"), Fit.ANY, Trait.PLACE],
    things: Annotated[dict[str, Any], Choice(None, many=True), Resume.FIXED],
    seed: Annotated[int, Resume.DIVERGES] = 0,
) -> None:
    """Work."""


def test_a_setting_says_what_stands_beside_its_type_or_else_beside_its_group() -> None:
    for group in ("thing", "things"):
        register(group=group, name="marked")(Marked)
    verb = Entry("verb", "work", work)
    keys = [
        "seed",
        "thing",
        "thing.size",
        "thing.name",
        "things.marked.size",
        "things.marked.name",
        "things.other.name",
    ]
    assert [verb.mark(key, Resume) for key in keys] == [
        Resume.DIVERGES, None, Resume.EXACT, None, Resume.EXACT, Resume.FIXED, Resume.FIXED,
    ]  # fmt: skip
    assert verb.mark("thing.name", Fit) is Fit.ANY
    assert verb.traits("thing.size") == {Trait.MACHINE, Trait.PLACE}
    assert verb.traits("things.marked.size") == {Trait.MACHINE}
    assert verb.mark("nothing.at.all", Resume) is None


def test_a_setting_has_an_effect_in_the_verbs_that_it_names() -> None:
    register(group="thing", name="marked")(Marked)
    size, name = entry("thing", "marked").options.values()
    assert [size.acts_in("work"), size.acts_in("rest"), name.acts_in("rest")] == [True, False, True]


def test_a_built_component_leads_back_to_what_it_was_made_of() -> None:
    register(group="thing", name="marked", shows_only=True)(Marked)
    built = entry("thing", "marked").build({"size": 3})
    known = entry_of(built)
    assert known is not None
    assert known.shows_only
    assert [option.name for option in changed_options(built)] == ["size"]
    assert entry_of(3) is None
    assert changed_options(3) == []
