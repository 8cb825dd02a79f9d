"""The linear probe of a run says about how many training images each class needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.conftest import SMALL, make_class_folders

from classifier_training.workflows.training import heads

pytestmark = pytest.mark.usefixtures("drawn")

Train = Callable[[list[str]], Path]


@pytest.fixture
def words(tmp_path: Path, tiny_weights: Path) -> list[str]:
    root = tmp_path / "many"
    make_class_folders(root / "train", {"blue": 30, "green": 20, "red": 3})
    make_class_folders(root / "val", {"blue": 12, "green": 12, "red": 12})
    make_class_folders(root / "test", {"blue": 11, "green": 11, "red": 11})
    return [f"data.root={root}", *SMALL, f"model.weights={tiny_weights}", "callbacks=[checkpoint,ema]"]


def test_a_fine_tuned_run_forecasts_its_recall_and_trains_the_same(
    words: list[str], train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_here([*words, "transfer=lp_ft", "trainer.max_epochs=1"])
    rows = {row["label"]: row for row in json.loads((run / "evaluation/learning_curve.json").read_text())}
    assert set(rows) == {"blue", "green", "red"}
    report = json.loads((run / "evaluation/classification_report.json").read_text())
    for name, row in rows.items():
        assert row["now"] == pytest.approx(report["classes"][name]["recall"]["value"])
        assert row["target"] == 0.9
    for name, number in (("blue", 30), ("green", 20)):
        row = rows[name]
        assert row["images_now"] == number
        assert row["low"] < row["high"]
        assert [row["forecasts"][place]["images"] for place in (0, -1)] == [number, 5 * number]
        needed = row["images_for_target"]
        assert row["reason"] if needed is None else number <= needed <= 5 * number
    assert rows["red"]["reason"].startswith("too few images: 3 for training")
    assert rows["red"]["images_for_target"] is None
    with Image.open(run / "evaluation/learning_curve.png") as image:
        assert image.width > image.height
    assert json.loads((run / "result.json").read_text())["failures"] == {}

    monkeypatch.setattr(heads, "MIN_TRAIN", 10**6)
    without = train_here([*words, "transfer=lp_ft", "trainer.max_epochs=1"])
    assert not (without / "evaluation/learning_curve.json").exists()
    states = [torch.load(one / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for one in (run, without)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_what_goes_wrong_costs_the_estimate_alone(
    words: list[str], train_here: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifier_training.training import learning_curve

    # Nothing is fitted, so there is nothing to count.
    monkeypatch.setattr(learning_curve, "NUM_DRAWS", 0)
    run = train_here([*words, "transfer=linear_probe"])
    assert "no learning curves: " in caplog.text
    assert not (run / "evaluation/learning_curve.json").exists()
    assert json.loads((run / "result.json").read_text())["failures"] == {}


def test_a_run_without_a_probe_has_no_forecast(words: list[str], train_here: Train) -> None:
    run = train_here([*words, "transfer=full", "trainer.max_epochs=1"])
    assert not (run / "evaluation/learning_curve.json").exists()
