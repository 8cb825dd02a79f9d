"""The list of data.corrections of a comparison, and counts of what is new."""

from __future__ import annotations

import shlex

import pytest

from classifier_training.core.errors import UserError
from classifier_training.data.corrections import LabelCorrection
from classifier_training.workflows.evaluating.corrections_effect import corrections_by_class, new_corrections
from classifier_training.workflows.many_runs.corrections_pairs import correction_variants


def line(path: str, action: str, new: str = "") -> LabelCorrection:
    return LabelCorrection(path=path, old="cat", action=action, new=new)  # type: ignore[arg-type]


@pytest.mark.parametrize("typed", ["[null,auto]", '"[null,auto]"', "[null, auto]"])
def test_a_list_of_corrections_makes_a_run_of_each(typed: str) -> None:
    settings = ["trainer.max_epochs=1", f"data.corrections={typed}"]
    assert correction_variants(settings) == [
        ["trainer.max_epochs=1", "data.corrections=null"], ["trainer.max_epochs=1", "data.corrections=auto"],
    ]  # fmt: skip


def test_without_a_list_nothing_changes() -> None:
    for settings in (["trainer.max_epochs=1"], ["data.corrections=null"], ["data.corrections=/a/b.csv"]):
        assert correction_variants(settings) == [settings]


def test_a_list_without_null_is_answered_with_one_that_works() -> None:
    with pytest.raises(UserError, match="nothing to compare with") as caught:
        correction_variants(["data.corrections=[auto,/a/b.csv]"])
    assert len(correction_variants(shlex.split(caught.value.remedy))) == 2


def test_what_is_new_is_counted_by_sample() -> None:
    before = [line("1", "relabel", "dog"), line("2", "drop"), line("3", "relabel", "dog")]
    now = [*before, line("1", "relabel", "cow"), line("2", "keep"), line("4", "move", "val"), line("4", "move", "test")]
    assert new_corrections(before, now) == {"relabel": 1, "move": 1, "keep": 1}
    assert new_corrections(before, before) == {}
    assert new_corrections(now, now[:2]) == {"relabel": 1, "drop": 1, "withdrawn": 2}


def test_corrections_are_counted_by_class() -> None:
    counts = corrections_by_class([line("1", "relabel", "dog"), line("2", "drop"), line("2", "keep")])
    assert counts["cat"] == {"relabel": 1, "drop": 0, "move": 0, "keep": 1, "relabel_to": 0}
    assert counts["dog"] == {"relabel": 0, "drop": 0, "move": 0, "keep": 0, "relabel_to": 1}
