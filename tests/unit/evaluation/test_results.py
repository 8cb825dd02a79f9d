from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import read_csv

from classifier_training.core.display import FORMULA_STARTS
from classifier_training.core.run_dir import RunDir, write_json
from classifier_training.core.types import SplitResult, SplitTable
from classifier_training.evaluation import results
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.metrics import cross_entropies
from classifier_training.evaluation.plots import draw_results
from classifier_training.evaluation.results import Evaluation, evaluate_predictions, write_results
from classifier_training.workflows.evaluating.finished import read_run_predictions
from classifier_training.workflows.reviewing.collection import read_predictions

NAMES = ("accuracy", "metrics", "split")
"""A class may be called like a part of the report."""


DRAWER = Drawer()


@pytest.fixture(autouse=True, scope="module")
def one_drawer() -> Iterator[None]:
    """One painting process for all tests here: starting it takes longer than they do."""
    with DRAWER:
        yield


def write(
    folder: Path, rows: list[int], answers: list[int], *, temperature: float | None = None, **options: Any
) -> tuple[Evaluation, dict[str, Any]]:
    """Write results for a table of five images of which these rows were answered so, divided by the temperature."""
    table = SplitTable("test", list("abcde"), np.array([0, 1, 2, 2, 0]), ["", "x", "x", "", ""])
    targets = table.targets[rows]
    logits = np.eye(3, dtype=np.float32)[answers] * (1 + np.arange(len(rows), dtype=np.float32)[:, None])
    losses = cross_entropies(logits, targets)
    result = SplitResult(
        "test", logits * np.float32(temperature or 1), targets, np.array(rows), losses, temperature=temperature
    )
    found = evaluate_predictions(result, table, NAMES, **options)
    write_results(folder, result, table, NAMES, found, source="model.onnx")
    draw_results(folder, result, table, NAMES, found, DRAWER)
    return found, json.loads((folder / "classification_report.json").read_text())


def test_the_report_gives_each_figure_with_its_interval_and_what_was_left_out(tmp_path: Path) -> None:
    found, report = write(
        tmp_path,
        [0, 1, 2, 3],
        [0, 1, 2, 0],
        unknown_labels={"zebra": 7},
        slices={"group": ["(none)", "x", "x", "(none)", "(none)"]},
    )
    assert (report["schema"], report["split"], report["source"], report["num_images"]) == (1, "test", "model.onnx", 4)
    accuracy = report["metrics"]["acc_top1"]
    assert accuracy == {
        "value": 0.75,
        "low": pytest.approx(0.0149, abs=1e-4),
        "high": pytest.approx(1.0, abs=1e-4),
        "method": "exact by groups (Korn-Graubard)",
    }
    assert report["intervals"]["groups"] == 3
    assert {name: row["support"] for name, row in report["classes"].items()} == {
        "accuracy": 1,
        "metrics": 1,
        "split": 2,
    }
    assert report["classes"]["split"]["recall"]["value"] == 0.5
    assert report["classes"]["split"]["auroc"]["method"] in ("DeLong by groups", "none")
    assert report["left_out"] == {"unknown_labels": {"zebra": 7}, "unreadable": ["e"]}
    assert report["missing_classes"] == []
    assert report["worst_slice"] == {"by": "group", "value": "(none)"}
    assert [(row["value"], row["num_images"], row["accuracy"]["value"]) for row in report["slices"]] == [
        ("(none)", 2, 0.5), ("x", 2, 1.0),
    ]  # fmt: skip
    assert read_csv(tmp_path / "slices.csv")[1]["accuracy_low"] == "0.158114"
    words = str(found)
    assert "left out, for labels that the model does not know ('zebra'): 7\n" in words
    assert "left out, because they cannot be read: 1\n" in words
    assert "worst slice: group '(none)'" in words
    assert "0.7500 [0.0149, 1.0000]" in words
    assert "(95 % intervals by 3 groups, too few to rely on them)" in words


def test_losses_before_and_after_a_temperature_have_names_of_their_own(tmp_path: Path) -> None:
    rows, answers = [0, 1, 2, 3], [0, 1, 2, 0]
    found, report = write(tmp_path / "given", rows, answers, temperature=2.0)
    _, plain = write(tmp_path / "plain", rows, answers)
    given, alone = report["metrics"], plain["metrics"]
    # What is written was divided by the temperature already.
    for name in ("loss", "brier", "ece"):
        assert given[f"calibrated_{name}"] == alone[name]
        assert given[name]["value"] != pytest.approx(alone[name]["value"], rel=0.01)
        assert given[name]["low"] < given[name]["value"] < given[name]["high"]
        assert f"calibrated_{name}" not in alone
    logits = np.eye(3)[answers] * (1 + np.arange(4))[:, None]
    own = cross_entropies((2 * logits).astype(np.float32), np.array([0, 1, 2, 2]))
    assert given["loss"]["value"] == pytest.approx(own.mean(), rel=1e-6)
    losses = [float(row["loss"]) for row in read_csv(tmp_path / "given/predictions.csv")]
    assert np.mean(losses) == pytest.approx(given["calibrated_loss"]["value"], abs=1e-6)
    assert f"calibrated loss {found.measures.overall['calibrated_loss']}" in str(found)


def test_errors_come_by_their_loss_and_figures_alone_have_no_interval(tmp_path: Path) -> None:
    found, report = write(tmp_path, [1, 2, 3, 4], [0, 2, 0, 1], intervals=False)
    errors = read_csv(tmp_path / "errors.csv")
    assert [row["path"] for row in errors] == ["e", "d", "b"]
    assert [row["path"] for row in read_csv(tmp_path / "predictions.csv")] == ["b", "c", "d", "e"]
    assert report["metrics"]["acc_top1"] == {"value": 0.25, "low": None, "high": None, "method": "none"}
    assert report["intervals"]["resamples"] == 0
    assert "[" not in str(found)
    assert not (tmp_path / "slices.csv").exists()


def test_tables_of_very_many_predictions_have_the_most_probable_classes_and_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_PROBABILITIES", 1)
    run = RunDir(tmp_path)
    write(run.evaluation, [0, 1, 2, 3], [0, 2, 2, 0], intervals=False)
    first, second, *_ = read_csv(run.predictions)
    assert [*first] == ["path", "true", "predicted", "confidence", "loss", "group", "top_k"]
    top = json.loads(second["top_k"])
    assert [item["label"] for item in top] == ["split", "accuracy", "metrics"]
    assert top[0]["probability"] == float(second["confidence"])
    assert sum(item["probability"] for item in top) == pytest.approx(1, abs=2e-6)
    found = read_run_predictions(run)
    assert (found.targets["b"], found.correct, found.groups["b"]) == ("metrics", frozenset("ac"), "x")
    assert found.true_positive_rates == []
    # What a person reviews is the same as from all probabilities.
    write_json(run.labels_mapping, {"class_to_idx": {name: number for number, name in enumerate(NAMES)}})
    rows = {path: [number] for number, path in enumerate("abcde")}
    short = read_predictions(run, rows, 5)
    monkeypatch.undo()
    write(run.evaluation, [0, 1, 2, 3], [0, 2, 2, 0], intervals=False)
    whole = read_predictions(run, rows, 5)
    assert short is not None
    assert whole is not None
    assert short.class_names == whole.class_names
    for name in ("top", "probabilities", "losses", "labels", "own"):
        assert getattr(short, name) == pytest.approx(getattr(whole, name), abs=2e-6, nan_ok=True)


def test_a_class_without_images_is_named_and_has_no_figures(tmp_path: Path) -> None:
    found, report = write(tmp_path, [0, 4], [0, 0])
    assert report["missing_classes"] == ["metrics", "split"]
    assert report["classes"]["split"]["recall"]["value"] is None
    assert "no image of 'metrics', 'split': balanced accuracy leaves them out" in str(found)


def test_no_cell_of_a_safe_table_is_a_formula(tmp_path: Path) -> None:
    names = ("=cmd|' /C calc'!A0", "+1", "plain")
    table = SplitTable("test", ["@a.png", "-b.png", "c.png"], np.array([0, 1, 2]), ["\t=1", "\r=1", "g"])
    logits = np.eye(3, dtype=np.float32)[[0, 2, 2]]
    losses = cross_entropies(logits, table.targets)
    result = SplitResult("test", logits, table.targets, np.arange(3), losses)
    found = evaluate_predictions(result, table, names, slices={"group": table.groups})
    for is_safe in (False, True):
        write_results(tmp_path, result, table, names, found, source="m.onnx", csv_safe=is_safe)
        for name in ("predictions.csv", "errors.csv", "slices.csv"):
            with (tmp_path / name).open(newline="") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            assert any(cell.startswith(FORMULA_STARTS) for cell in cells) != is_safe
    (first, *_) = read_csv(tmp_path / "predictions.csv")
    assert (first["path"], first["true"], first["group"]) == ("'@a.png", "'=cmd|' /C calc'!A0", "'\t=1")
    assert (tmp_path / "errors.csv").read_text().startswith('"path","true"')
