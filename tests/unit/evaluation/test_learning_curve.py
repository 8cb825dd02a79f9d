from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.evaluation.test_learning_law import SHARES, odds, simulate

from classifier_training.core.run_dir import RunDir, write_json
from classifier_training.core.run_reader import DamagedFileError
from classifier_training.core.types import SplitResult
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.curves import LearningCurvesFigure
from classifier_training.evaluation.learning_curve import MAX_ROWS, learning_rows, write_learning_curve
from classifier_training.evaluation.learning_law import CurvePoints

NAMES = ("steep", "flat", "good")
SUPPORT = np.array([200, 200, 200])


@pytest.fixture(scope="module")
def points() -> CurvePoints:
    errors = np.vstack(
        [
            odds(np.array([0.2]), 0.0, 0.8, SHARES),
            np.full((1, 5), 0.4),
            odds(np.array([0.03]), 0.1, 0.5, SHARES),
        ]
    )
    return simulate(errors, num_images=200, num_held_out=1000, seed=0)


def rows_of(points: CurvePoints, hits: tuple[int, ...] = (160, 120, 194), **changed: Any) -> dict[str, dict[str, Any]]:
    settings = {"targets": [0.9] * 3, "is_probe": True, "seed": 0, **changed}
    found = learning_rows(points, NAMES, np.array(hits), SUPPORT, **settings)
    return {row["label"]: row for row in found}


def test_images_that_a_target_needs_are_those_of_the_law(points: CurvePoints) -> None:
    row = rows_of(points)["steep"]
    # Odds of 1 to 4 fall to 1 to 9 where images ** 0.8 has grown by 9 / 4.
    assert row["images_for_target"] == pytest.approx(200 * (9 / 4) ** (1 / 0.8), rel=0.3)
    assert row["images_now"] == 200 < row["images_low"] < row["images_for_target"] < row["images_high"]
    assert (row["now"], row["target"], row["reason"]) == (0.8, 0.9, None)
    assert row["low"] < 0.8 < row["high"]


def test_a_flat_class_is_told_that_more_images_do_not_help(points: CurvePoints) -> None:
    row = rows_of(points)["flat"]
    assert (row["images_for_target"], row["images_high"]) == (None, None)
    assert row["reason"] == "not reachable by more images of this kind"


def test_a_target_that_may_be_reached_beyond_what_was_tried_has_no_number(points: CurvePoints) -> None:
    row = rows_of(points, targets=[0.985] * 3)["steep"]
    assert (row["images_for_target"], row["reason"]) == (None, "more than 1,000 images")


def test_a_reached_target_needs_no_more(points: CurvePoints) -> None:
    assert rows_of(points)["good"]["images_for_target"] == 200


def test_the_interval_grows_with_the_distance(points: CurvePoints) -> None:
    for row in rows_of(points).values():
        ends = np.array([[item["low"], item["high"]] for item in row["forecasts"]])
        widths = np.diff(np.log(ends / (1 - ends)), axis=1)[:, 0]
        assert widths[-1] > widths[0]
        assert [row["forecasts"][place]["images"] for place in (0, -1)] == [200, 1000]


def test_of_a_fine_tuned_network_less_is_known(points: CurvePoints) -> None:
    probe, network = (rows_of(points, is_probe=is_probe)["flat"]["forecasts"] for is_probe in (True, False))
    assert network[-1]["high"] - network[-1]["low"] > 1.5 * (probe[-1]["high"] - probe[-1]["low"])
    assert network[0] == probe[0]


def test_classes_without_images_or_target_are_said_or_left_out(points: CurvePoints) -> None:
    few = points.of([0, 1, 2])
    few.sizes[1], few.held_out[2], few.errors[2] = 0, 0, 0
    rows = rows_of(few, targets=[0.9, 0.9, 0.9])
    assert rows["flat"]["reason"] == "too few images: 0 for training and 200 held out, where 4 and 10 are needed"
    assert rows["good"]["reason"] == "too few images: 200 for training and 0 held out, where 4 and 10 are needed"
    assert rows["steep"]["images_for_target"] is not None
    assert set(rows_of(points, targets=[0.9, None, 0.9])) == {"steep", "good"}


def test_a_forecast_ends_at_5_times_the_images_that_were_used(points: CurvePoints) -> None:
    half = points.of([0, 1, 2])
    half.images_now[:] = 400
    assert rows_of(half)["steep"]["forecasts"][-1]["images"] <= 1000
    half.images_now[:] = 4000
    assert rows_of(half)["steep"]["reason"] == "only 200 of the 4,000 images were used"


def test_of_many_classes_the_worst_are_forecast(points: CurvePoints) -> None:
    number = 3 * MAX_ROWS
    many = points.of([0] * number)
    hits = np.arange(number) * 5
    names = [str(place) for place in range(number)]
    rows = learning_rows(many, names, hits, np.full(number, 200), [0.9] * number, is_probe=True, seed=0)
    assert [row["label"] for row in rows] == names[:MAX_ROWS]


def result(hits: tuple[int, ...]) -> SplitResult:
    targets = np.repeat(np.arange(3), SUPPORT)
    logits = np.zeros((len(targets), 3), np.float32)
    for number, right in enumerate(hits):
        own = np.flatnonzero(targets == number)
        logits[own[:right], number] = 1
        logits[own[right:], (number + 1) % 3] = 1
    return SplitResult("test", logits, targets, np.arange(len(targets)), np.zeros(len(targets), np.float32), {})


def test_rows_and_plot_are_written_where_the_probe_left_points_and_old_ones_go(
    points: CurvePoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[tuple[LearningCurvesFigure, Path]] = []
    monkeypatch.setattr(Drawer, "submit", lambda _, figure, path: submitted.append((figure, path)))
    run, scored = RunDir(tmp_path), result((160, 120, 194))
    write_json(run.learning_points, points.to_dict())
    for _ in range(2):
        write_learning_curve(run, scored, NAMES, Drawer(), targets=[0.9] * 3, is_probe=True, seed=0)
    rows = json.loads(run.learning_curve.read_text())
    assert [row["label"] for row in rows] == ["flat", "steep", "good"]
    assert rows == list(rows_of(points).values())
    figure, path = submitted[0]
    assert path == run.evaluation / "learning_curve.png"
    assert [panel.label for panel in figure.panels] == ["flat", "steep", "good"]
    axes = figure.render().axes
    assert [one.get_title() for one in axes] == ["flat", "steep", "good"]
    assert {line.get_label() for line in axes[0].get_lines()} >= {"forecast", "now", "target"}
    run.learning_points.unlink()
    write_learning_curve(run, scored, NAMES, Drawer(), targets=[0.9] * 3, is_probe=True, seed=0)
    assert not run.learning_curve.exists()
    run.learning_points.write_text("{}")
    with pytest.raises(DamagedFileError, match=r"learning_points\.json"):
        write_learning_curve(run, scored, NAMES, Drawer(), targets=[0.9] * 3, is_probe=True, seed=0)
