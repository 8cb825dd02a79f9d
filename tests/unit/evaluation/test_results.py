from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from classifier_training.core.types import SplitResult, SplitTable
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.results import write_results


def test_classes_may_be_called_like_parts_of_the_report(tmp_path: Path) -> None:
    names = ("accuracy", "metrics", "split")
    targets = np.array([0, 1, 2, 2])
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    result = SplitResult("test", logits, targets, np.arange(4), np.zeros(4, np.float32), {"balanced_accuracy": 0.5})
    with Drawer() as drawer:
        write_results(tmp_path, result, SplitTable("test", list("abcd"), targets, [""] * 4), names, drawer)
    report = json.loads((tmp_path / "classification_report.json").read_text())
    assert report["split"] == "test"
    assert report["metrics"] == {"balanced_accuracy": 0.5}
    assert {name: row["support"] for name, row in report["classes"].items()} == {
        "accuracy": 1,
        "metrics": 1,
        "split": 2,
    }
    assert report["accuracy"] == 0.75
    assert report["macro avg"]["support"] == 4
