from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.runs import make_run

from classifier_training.core.run_dir import RunDir
from classifier_training.evaluation.comparison import compare
from classifier_training.registry.scan import Registry
from classifier_training.workflows.evaluating.trained_again import TrainedAgain
from classifier_training.workflows.training.promote import promote_finished


def again(before: Path, *, lost: int, gained: int = 0, new: bool = True, number: int = 200) -> TrainedAgain:
    """Two classes of images, of the first of which so many are lost and gained."""
    targets = np.repeat([0, 1], number)
    after, was = np.ones(2 * number, bool), np.ones(2 * number, bool)
    after[:lost] = False
    was[lost : lost + gained] = False
    return TrainedAgain(
        before=str(before), split="test", comparison=compare(targets, after, was, ("cat", "dog")),
        new_classes={"ant": (10, 0.9)} if new else {},
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunDir, RunDir]:
    """Production, and a run that was trained again and knows a class more, with lower metrics on more images."""
    root = tmp_path / "outputs"
    before = RunDir(make_run(root, "2026-01-02/10-00-00", score=0.9))
    after = RunDir(make_run(root, "2026-01-02/11-00-00", score=0.8, class_names=("cat", "dog", "ant")))
    assert not promote_finished(before, None, output=str(root)).refused
    return before, after


def holder(root: Path) -> str:
    registry = Registry.open(root / "outputs")
    found = [record for record in registry.runs.values() if record.promotions]
    return max(found, key=lambda record: record.promotions[-1].number).folder


def test_the_paired_comparison_takes_the_place_of_classes_and_metric(
    runs: tuple[RunDir, RunDir], tmp_path: Path
) -> None:
    before, after = runs
    found = promote_finished(after, again(before.path, lost=2), output=str(tmp_path / "outputs"))
    assert not found.refused, found.words
    assert holder(tmp_path).endswith("11-00-00")
    assert any("none of the 2 old classes is significantly worse" in line for line in found.words)


@pytest.mark.parametrize(
    ("lost", "gained", "new", "said"),
    [
        (30, 0, True, "old classes: significantly worse than before: cat"),
        (5, 0, True, "held-out images"),
        (1, 0, False, "held-out images"),
    ],
)
def test_a_run_that_is_worse_stays_out_and_what_refused_it_is_named(
    runs: tuple[RunDir, RunDir], tmp_path: Path, lost: int, gained: int, said: str, *, new: bool
) -> None:
    before, after = runs
    found = promote_finished(
        after, again(before.path, lost=lost, gained=gained, new=new), output=str(tmp_path / "outputs")
    )
    assert found.refused
    assert said in found.words[0]
    assert any("force=true" in line for line in found.words)
    assert holder(tmp_path).endswith("10-00-00")


def test_as_good_as_before_is_enough_without_new_classes(runs: tuple[RunDir, RunDir], tmp_path: Path) -> None:
    before, after = runs
    found = promote_finished(after, again(before.path, lost=2, gained=2, new=False), output=str(tmp_path / "outputs"))
    assert not found.refused, found.words


def test_production_may_have_become_another_run(runs: tuple[RunDir, RunDir], tmp_path: Path) -> None:
    before, after = runs
    other = RunDir(make_run(tmp_path / "outputs", "2026-01-02/12-00-00", score=0.95))
    assert not promote_finished(other, None, output=str(tmp_path / "outputs")).refused
    found = promote_finished(after, again(before.path, lost=0), output=str(tmp_path / "outputs"))
    assert found.refused
    assert "holder" in found.words[0]
    assert any("init_from=production" in line for line in found.words)
    assert holder(tmp_path).endswith("12-00-00")


def test_without_a_comparison_or_below_another_folder_nothing_is_promoted(
    runs: tuple[RunDir, RunDir], tmp_path: Path
) -> None:
    before, after = runs
    empty = TrainedAgain(before=str(before.path), split="test", comparison=None, new_classes={})
    assert "no held-out image" in promote_finished(after, empty, output=str(tmp_path / "outputs")).words[0]
    (tmp_path / "others").mkdir()
    assert "is not below" in promote_finished(after, None, output=str(tmp_path / "others")).words[0]
    # One that was not trained again meets the ordinary gate.
    assert "other classes" in promote_finished(after, None, output=str(tmp_path / "outputs")).words[0]


def test_the_table_has_a_row_for_each_class() -> None:
    lines = again(Path("before"), lost=30).words
    assert lines[1].split() == ["class", "n", "before", "after", "p"]
    assert lines[2].split()[:4] == ["cat", "200", "1.0000", "0.8500"]
    assert lines[4].split() == ["ant", "10", "new", "0.9000"]
