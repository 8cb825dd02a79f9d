from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.multirun import sweep
from classifier_training.core.errors import InterruptedRunError, UserError
from classifier_training.core.register import Entry, entry

TRAIN = entry("verb", "train")
calls: list[int] = []


def toy(*, number: int, bound: int = 10, resume: str | None = None) -> str:
    """Count.

    Args:
        number: what to count.
        bound: where to stop.
        resume: nothing.
    """
    calls.append(number)
    if number == bound:
        raise InterruptedRunError(signal.SIGTERM, "go on")
    if number < 0:
        raise UserError("a negative number", "another", "choose it")
    return f"counted {number}"


TOY = Entry("verb", "toy", toy)


def test_every_run_says_which_combination_it_is_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reports: list[str] = []
    assert sweep(TOY, ["number=1,-1,2", "bound=9"], reports.append) == 2
    assert reports == [f"combination: number={number}\ncounted {number}" for number in (1, 2)]
    assert caplog.text.index("combination: number=-1") < caplog.text.index("a negative number")


def test_an_interrupted_run_ends_the_sweep() -> None:
    calls.clear()
    with pytest.raises(InterruptedRunError) as caught:
        sweep(TOY, ["number=1,2,3", "bound=2"], print)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert calls == [1, 2]


def test_a_setting_that_not_every_choice_has_is_refused_by_name() -> None:
    for models in ("cnn_v1,student", "student,cnn_v1"):
        with pytest.raises(UserError, match=r"model\.residual=false: model=student has no such setting"):
            sweep(TRAIN, [f"model={models}", "data=digits", "model.residual=false"], print)


def test_a_setting_of_a_component_that_is_not_chosen_names_the_component() -> None:
    with pytest.raises(UserError, match=r"sampler\.weights=\{cat: 4\}: no sampler= is chosen") as caught:
        sweep(TRAIN, ["data=digits", "sampler.weights={cat: 4}"], print)
    assert caught.value.remedy == "sampler=manual 'sampler.weights={cat: 4}'"


def test_no_run_to_go_on_with_stands_beside_many_runs() -> None:
    with pytest.raises(UserError, match="resume=latest beside --multirun"):
        sweep(TOY, ["number=1,2", "resume=latest"], print)


def test_an_experiment_of_the_users_and_the_sample_make_many_runs(tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_text("# @package _global_\nseed: 7\n")
    found: list[tuple[str, int]] = []

    def spy(**arguments: object) -> str:
        found.append((type(arguments["data"]).__name__, int(str(arguments["seed"]))))
        return ""

    class Spying(Entry):
        options = TRAIN.options

    spying = Spying("verb", "train", spy)
    assert sweep(spying, ["experiment=mine", "optimizer.lr=0.1,0.2"], print) == 0
    assert found == [("Digits", 7), ("Digits", 7)]
    assert sweep(spying, ["experiment=mine,local", "data.root=/x"], print) == 0
    assert found[2:] == [("AutoData", 7), ("AutoData", 0)]
    (tmp_path / "conf/experiment/other.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not YAML"):
        sweep(spying, ["experiment=mine,other", "data.root=/x"], print)


def test_a_setting_without_effect_is_refused_before_the_first_of_many_runs() -> None:
    with pytest.raises(UserError, match="has no effect with model=svm"):
        sweep(TRAIN, ["data=digits", "model=svm", "optimizer.lr=0.1,0.01"], print)
