from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from tests.conftest import COLOURS, draw_picture

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.inference.batches import Plan
from classifier_training.inference.predictor import Predictor
from classifier_training.inference.rows import RowSettings, to_row
from classifier_training.inference.sources import Item


def test_a_plan_is_the_slices_of_the_source() -> None:
    # A name need not be text.
    items = [Item(f"/a/é\udcff{row}.png", f"{row}.png", error="lost" if row == 40 else None) for row in range(100)]
    plan = Plan(iter(items), 32)
    assert [len(batch) for batch in plan] == [32, 32, 32, 4]
    assert [(item.path, item.error) for batch in plan for item in batch] == [(one.path, one.error) for one in items]


def test_planning_grows_with_the_number_of_images_and_no_faster() -> None:
    def seconds(number: int) -> float:
        started = time.process_time()
        assert len(Plan((Item(f"/a/folder/{row:08}.png", "") for row in range(number)), 32)) == number / 32
        return time.process_time() - started

    seconds(3200)
    assert min(seconds(64_000) for _ in range(3)) < 20 * min(seconds(6400) for _ in range(3))


def test_a_batch_has_the_rows_of_a_whole_run_in_any_order(run_dir: RunDir, tmp_path: Path) -> None:
    for number in range(7):
        draw_picture(tmp_path / f"{number}.png", list(COLOURS.values())[number % 3], seed=number)
    (tmp_path / "3.png").write_bytes(b"x")
    plan = Plan((Item(str(path), path.name) for path in sorted(tmp_path.iterdir())), 3)
    predictor, settings = Predictor(run_dir.path), RowSettings(top_k=2, probabilities=True)
    whole = [
        to_row(found, probabilities=True)
        for found in Predictor(run_dir.path).predict(plan.paths[:], batch_size=3, top_k=2, probabilities=True)
    ]
    rows = [predictor.rows(plan[number], settings) for number in (2, 0, 1)]
    assert [*rows[1], *rows[2], *rows[0]] == whole
    assert whole[3]["error"]
    assert pickle.loads(pickle.dumps(plan))[1] == plan[1]
    assert predictor.rows([], settings) == []


def test_one_path_is_not_read_as_many(run_dir: RunDir) -> None:
    with pytest.raises(UserError, match="one path"):
        next(Predictor(run_dir.path).predict("photo.jpg"))
