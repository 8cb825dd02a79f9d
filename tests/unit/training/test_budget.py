"""Epochs that fit into a time, and the schedule of a plan that is corrected."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tests.unit.training.test_module import make

from classifier_training.core.settings import Duration
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.training.batch_transforms import TrainingView
from classifier_training.training.budget import Budget, Course, Pacing, part_of, plan_epochs, with_batch_size
from classifier_training.training.decisions import Decisions, Part, read_decisions, write_decisions
from classifier_training.training.optim import warmup_cosine
from classifier_training.training.settings import TrainerSettings

PACING = Pacing(batch_seconds=1.0, validation_seconds=2.0)


def test_all_epochs_are_planned_over_all_images_where_there_is_time() -> None:
    assert plan_epochs(120.0, PACING, num_batches=10, per_step=1, max_epochs=10) == Part(
        from_epoch=0, max_epochs=10, num_batches=10
    )


@pytest.mark.parametrize("seed", range(100))
def test_a_plan_ends_in_time_and_wastes_less_than_a_step_an_epoch(seed: int) -> None:
    draw = random.Random(seed)
    seconds, batch_seconds, validation_seconds = draw.uniform(0.1, 500), draw.uniform(0.01, 3), draw.uniform(0, 20)
    num_batches, per_step, max_epochs = draw.randint(1, 40), draw.randint(1, 4), draw.randint(1, 30)
    pacing = Pacing(batch_seconds=batch_seconds, validation_seconds=validation_seconds)
    part = plan_epochs(seconds, pacing, num_batches=num_batches, per_step=per_step, max_epochs=max_epochs)
    if part is None:
        assert seconds < per_step * batch_seconds * (1 + 1e-9) + validation_seconds or num_batches < per_step
        return
    taken = part.max_epochs * pacing.epoch_seconds(part.num_batches)
    assert taken <= seconds * (1 + 1e-9)
    if part.num_batches < num_batches:
        # Rounding to whole steps is all that is lost.
        assert seconds - taken <= part.max_epochs * per_step * batch_seconds * (1 + 1e-9)
        assert part.num_batches % per_step == 0


def test_a_run_has_a_second_epoch_so_that_the_plan_can_be_corrected() -> None:
    assert plan_epochs(11.0, PACING, num_batches=10, per_step=1, max_epochs=9) == Part(
        from_epoch=0, max_epochs=2, num_batches=3
    )


def test_without_a_correction_steps_are_where_they_are() -> None:
    course = Course([Part(from_epoch=0, max_epochs=4, num_batches=7)], per_step=2)
    assert course.total_steps == 16
    assert [course(step) for step in range(16)] == list(range(16))


def test_a_corrected_schedule_goes_on_where_it_is_and_comes_to_its_end() -> None:
    parts = [
        Part(from_epoch=0, max_epochs=10, num_batches=10),
        Part(from_epoch=2, max_epochs=5, num_batches=10),
        Part(from_epoch=4, max_epochs=6, num_batches=5),
    ]
    course = Course(parts, per_step=1)
    places = [course(step) for step in range(20 + 20 + 10)]
    assert places[:21] == list(range(21))
    # 80 steps of the schedule are left for 30, of which 20 are done before the last correction.
    assert places[21] - places[20] == pytest.approx(80 / 30)
    assert places[40] == pytest.approx(20 + 80 * 20 / 30)
    assert places[40] - places[39] == pytest.approx(80 / 30)
    assert places[-1] < 100 <= course(len(places)) + 1e-9
    rates = [warmup_cosine(place, 100, warmup_fraction=0.1, final_lr_ratio=0.01) for place in places]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.02


def test_steps_before_an_epoch_are_those_of_each_part() -> None:
    parts = [
        Part(from_epoch=0, max_epochs=6, num_batches=40),
        Part(from_epoch=1, max_epochs=5, num_batches=30),
        Part(from_epoch=3, max_epochs=4, num_batches=10),
    ]
    assert [Course(parts, per_step=1).steps_before(epoch) for epoch in range(5)] == [0, 40, 70, 100, 110]
    assert [Course(parts, per_step=3).steps_before(epoch) for epoch in range(4)] == [0, 14, 24, 34]


@pytest.mark.parametrize(("size", "per_step", "batches"), [(64, 1, 50), (32, 2, 100), (128, 1, 25), (48, 4, 68)])
def test_batches_of_another_size_show_as_many_images(size: int, per_step: int, batches: int) -> None:
    part = Part(from_epoch=2, max_epochs=6, num_batches=50, batch_size=64)
    assert with_batch_size(part, size, per_step=per_step) == Part(
        from_epoch=2, max_epochs=6, num_batches=batches, batch_size=size
    )


def test_growing_images_follow_a_corrected_plan(tmp_path: Path) -> None:
    parts = (Part(from_epoch=0, max_epochs=6, num_batches=2), Part(from_epoch=2, max_epochs=4, num_batches=2))
    data: Any = SimpleNamespace(train_batch_sizes=[4, 4], batch_size=4)
    budget = Budget(tmp_path / "decisions.json", Decisions(parts=parts), data, TrainerSettings(max_epochs=6), None)
    view = TrainingView(transforms=Transforms(start_scale=0.5), num_classes=3, image_size=224, max_epochs=6, seed=0)
    module, resumed = make(view=view), make(view=view)
    at: Any = SimpleNamespace(current_epoch=0)
    sizes = []
    for at.current_epoch in range(4):
        budget.on_train_epoch_start(at, module)
        assert module._view is not None
        sizes.append(module._view(torch.zeros(1, 3, 224, 224), torch.zeros(1), epoch=at.current_epoch, step=0)[0].shape)
    assert sizes[0][-1] < 224
    assert sizes[-1][-1] == 224
    budget.on_train_start(at, resumed)
    assert resumed._view == module._view


def test_an_epoch_belongs_to_the_newest_part_that_has_begun() -> None:
    parts = [Part(from_epoch=0, max_epochs=9, num_batches=4), Part(from_epoch=3, max_epochs=5, num_batches=4)]
    assert [part_of(parts, epoch).max_epochs for epoch in (0, 2, 3, 4)] == [9, 9, 5, 5]


def test_a_plan_is_kept_with_the_decisions(tmp_path: Path) -> None:
    decisions = Decisions(parts=(Part(from_epoch=0, max_epochs=3, num_batches=8),))
    write_decisions(tmp_path / "decisions.json", decisions)
    assert read_decisions(tmp_path / "decisions.json") == decisions
    assert decisions.length(20) == 3
    assert Decisions().length(20) == 20


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("0.5h", 1800), (45, 45), ("00:01:30", 90)],
)
def test_times_are_written_as_people_write_them(text: str | int, seconds: float) -> None:
    assert TypeAdapter(Duration).validate_python(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["ten minutes", "10x", "-5s", "0s", "m"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(text)
