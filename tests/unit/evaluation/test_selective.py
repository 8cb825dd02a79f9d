from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from classifier_training.core.types import SplitResult, softmax
from classifier_training.evaluation.calibration import TemperatureChoice
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.label_sets import TrueScores
from classifier_training.evaluation.reject import class_curves
from classifier_training.evaluation.selective import write_selective


def choice(temperature: float, reason: str = "") -> TemperatureChoice:
    return TemperatureChoice(
        temperature=temperature, fitted_temperature=3.0, reason=reason, num_images=400, ece_before=0.2
    )


def drawn(split: str, seed: int, number: int = 400) -> SplitResult:
    """Answers that are three times too sure."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(0, 2, (number, 3))
    targets = (honest + generator.gumbel(size=honest.shape)).argmax(axis=1)
    logits = (3 * honest).astype(np.float32)
    return SplitResult(split, logits, targets, np.arange(number), np.zeros(number, dtype=np.float32))


def test_what_is_written_is_what_the_rules_give_on_these_images(tmp_path: Path) -> None:
    val, test, names = drawn("val", 0, 4000), drawn("test", 1), ("a", "", "c")
    shares = softmax(val.logits / np.float32(3))
    curves = class_curves(shares, val.targets, names)
    with Drawer() as drawer:
        scores = TrueScores.of(shares, val.targets)
        write_selective(tmp_path, test, names, choice=choice(3.0), curves=curves, scores=scores, drawer=drawer)
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert found["held_out"]
    assert found["ece_after"] < 0.06 < found["ece_before"]
    by_wish = {key: item for item in found["rejecting"] for key in item.items() if key[0] in ("precision", "coverage")}
    precise = by_wish["precision", 0.9]
    assert 0.88 <= precise["found_precision"] <= 0.96
    assert (precise["delta"], precise["possible"], precise["needed_predictions"]) == (0.1, True, 22)
    assert "Learn then Test" in precise["guarantee"]
    assert precise["never_accepted"] == precise["shared_threshold"] == []
    assert by_wish["coverage", 0.8]["found_coverage"] == pytest.approx(0.8, abs=0.06)
    sets = {item["coverage"]: item for item in found["label_sets"]}
    assert sets[0.9]["found_coverage"] == pytest.approx(0.9, abs=0.05)
    assert sets[0.9]["mean_size"] < sets[0.95]["mean_size"] < sets[0.99]["mean_size"] < 3
    last = (tmp_path / "risk_coverage.csv").read_text().splitlines()[-1].split(",")
    assert float(last[2]) == pytest.approx((test.predicted != test.targets).mean(), abs=1e-6)
    assert (tmp_path / "risk_coverage.png").stat().st_size > 1000


def test_validation_images_are_said_to_be_no_held_out_ones_and_an_old_bundle_has_no_temperature(tmp_path: Path) -> None:
    result = drawn("val", 0)
    curves = class_curves(result.probabilities, result.targets, ("a", "b", "c"))
    with Drawer() as drawer:
        write_selective(tmp_path / "new", result, ("a", "b", "c"), choice=choice(2.0), curves=curves, drawer=drawer)
        write_selective(tmp_path / "old", result, ("a", "b", "c"), choice=None, curves=None, drawer=drawer)
        write_selective(
            tmp_path / "left", result, ("a", "b", "c"), choice=choice(1.0, "no gain"), curves=curves, drawer=drawer
        )
    left = json.loads((tmp_path / "left/calibration.json").read_text())
    assert (left["temperature"], left["reason"]) == (1, "no gain")
    assert left["ece_before"] == left["ece_after"]
    assert len(left["rejecting"]) == 5
    new, old = (json.loads((tmp_path / name / "calibration.json").read_text()) for name in ("new", "old"))
    assert not new["held_out"]
    assert "fitted on" in new["note"]
    assert new["reason"] is None
    assert old["temperature"] is None
    assert old["ece_before"] == old["ece_after"]
    assert "rejecting" not in old
