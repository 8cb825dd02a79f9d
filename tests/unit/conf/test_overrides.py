from __future__ import annotations

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.overrides import written_instead
from classifier_training.core.register import entry


@pytest.mark.parametrize(
    ("verb", "key", "instead"),
    [
        ("compare", "model", "models=…"), ("compare", "data.root", "data=…"), ("compare", "seed", "seeds=…"),
        ("compare", "category", "output=…"), ("compare", "model.dropout", None), ("compare", "optimizer", None),
        ("tune", "name", None), ("tune", "category", "output=…"), ("tune", "seed", None),
        ("distill", "distillation.alpha", "alphas=…"), ("distill", "distillation", "teacher=…"),
        ("distill", "distillation.keep_answers", "teacher=…"), ("distill", "data.root", None),
        ("distill", "extend", "classifier-training train resume=RUN"),
    ],
)  # fmt: skip
def test_what_a_verb_of_many_runs_sets_itself_is_written_otherwise(verb: str, key: str, instead: str | None) -> None:
    assert written_instead(entry("verb", verb), key) == instead


@pytest.mark.parametrize("verb", ["compare", "tune", "distill"])
def test_the_runs_of_a_verb_are_not_promoted(verb: str) -> None:
    assert "registry promote run=RUN" in str(written_instead(entry("verb", verb), "promote"))


@pytest.mark.parametrize("verb", ["compare", "tune"])
def test_the_same_command_resumes_what_a_search_or_comparison_left(verb: str) -> None:
    assert "the same command again" in str(written_instead(entry("verb", verb), "resume"))
