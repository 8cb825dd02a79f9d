"""The table of metrics, and one that a package of its own adds to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import jaccard_score
from tests.conftest import SMALL, read_csv
from tests.pages import write_evaluation

from classifier_training.callbacks.plots import _columns
from classifier_training.core import metrics as table
from classifier_training.core.errors import UserError
from classifier_training.core.metrics import all_metrics, goal_of, metric_of, register_metric
from classifier_training.evaluation.counts import ClassCounts, ratio
from classifier_training.evaluation.leaderboard import metric_columns
from classifier_training.evaluation.measures import measure
from classifier_training.evaluation.metrics import (
    FromCounts,
    FromProbabilities,
    check_monitor,
    classification_metrics,
    cross_entropies,
)

NAMES = ("a", "b", "c")


def jaccard(counts: ClassCounts) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return ratio(counts.hits, counts.support + counts.predicted - counts.hits)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plug-in does as its module loads, and afterwards the table as it was."""
    monkeypatch.setattr(table, "_table", {metric.name: metric for metric in all_metrics()})
    register_metric(
        FromCounts(
            name="jaccard", title="Jaccard index", by_class=True, averages=("macro",), function=jaccard,
            logged=True, plot="accuracy", leaderboard="jaccard", on_card=True,
        )
    )  # fmt: skip
    register_metric(
        FromProbabilities(
            name="doubt", title="mean doubt", lower_is_better=True, interval="none", calibrated=True,
            function=lambda found, _: float(1 - found.confidences.mean()),
        )
    )  # fmt: skip


def made() -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 200)
    logits = random.normal(size=(200, 3)).astype(np.float32)
    logits[np.arange(200), targets] += 1
    return logits, targets


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "Mean error/2"}, "small letters"),
        ({"averages": ("makro",)}, "macro, or macro and weighted"),
        ({"averages": ()}, "macro, or macro and weighted"),
        ({"name": "f1"}, "is taken"),
    ],
)
def test_an_entry_that_cannot_work_is_refused(changed: dict[str, Any], said: str) -> None:
    entry = {"name": "other", "title": "Other", "by_class": True, "function": jaccard}
    with pytest.raises(ValueError, match=said):
        register_metric(FromCounts(**{**entry, **changed}))


@pytest.mark.usefixtures("registered")
def test_a_registered_metric_is_logged_watched_and_has_an_interval() -> None:
    logits, targets = made()
    for name in ("macro_jaccard", "jaccard_class_b", "doubt"):
        check_monitor(f"val/{name}", NAMES, targets, setting="monitor")
    with pytest.raises(UserError, match="there is no such metric"):
        check_monitor("val/weighted_jaccard", NAMES, targets, setting="monitor")
    assert [goal_of(f"val/{name}") for name in ("macro_jaccard", "doubt", "calibrated_doubt")] == ["max", "min", "min"]

    losses = cross_entropies(logits, targets)
    found = classification_metrics(logits, targets, losses, NAMES, also=["doubt", "jaccard_class_b"])
    expected = jaccard_score(targets, logits.argmax(axis=1), average=None)
    assert found["macro_jaccard"] == pytest.approx(expected.mean())
    assert found["jaccard_class_b"] == pytest.approx(expected[1])
    assert "doubt" not in classification_metrics(logits, targets, losses, NAMES)

    report = measure(2 * logits, targets, num_classes=3, temperature=2.0)
    assert report.overall["macro_jaccard"].low < expected.mean() < report.overall["macro_jaccard"].high
    assert report.by_class["jaccard"][1].method == "bootstrap"
    assert report.overall["doubt"].value == pytest.approx(found["doubt"], abs=0.2)
    assert report.overall["doubt"].value < report.overall["calibrated_doubt"].value
    assert report.overall["calibrated_doubt"].method == "none"


@pytest.mark.usefixtures("registered")
def test_a_registered_metric_is_on_pages_plots_and_leaderboards(tmp_path: Path) -> None:
    write_evaluation(tmp_path, NAMES, [0, 1, 2] * 8)
    page = (tmp_path / "report.html").read_text()
    for title in ("macro Jaccard index", "mean doubt", ">Jaccard index<"):
        assert title in page
    report = json.loads((tmp_path / "classification_report.json").read_text())
    assert report["metrics"]["macro_jaccard"]["value"] <= 1
    assert report["classes"]["b"]["jaccard"]["value"] <= 1
    assert "val/macro_jaccard" in _columns("accuracy")
    assert metric_columns()["jaccard"].short_title == "macro Jaccard index"


@pytest.mark.usefixtures("registered", "quick_runs")
def test_a_run_chooses_its_weights_by_a_registered_metric(
    split_folder: Path, train_here: Callable[[Sequence[str]], Path]
) -> None:
    run = train_here([*SMALL, f"data.root={split_folder}", "monitor=val/macro_jaccard", "trainer.max_epochs=1"])
    assert 0 <= float(read_csv(run / "metrics.csv")[-1]["val/macro_jaccard"]) <= 1
    report = json.loads((run / "evaluation/classification_report.json").read_text())
    assert set(report["metrics"]["macro_jaccard"]) == {"value", "low", "high", "method"}
    assert "| Macro Jaccard index |" in (run / "MODEL_CARD.md").read_text()
    assert "macro Jaccard index" in (run / "report.html").read_text()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="macro_f1 is taken"):
        register_metric(FromCounts(name="macro_f1", title="another", function=jaccard))
    with pytest.raises(ValueError, match="acc_class_ is taken"):
        register_metric(FromCounts(name="acc", title="another", by_class=True, function=jaccard))


def test_an_empty_table_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert goal_of("val/unknown") == "max"
    found = metric_of("f1_class_x_class_y")
    assert found is not None
    assert found.name == "f1"
    monkeypatch.setattr(table, "_table", {})
    with pytest.raises(RuntimeError, match="the table of metrics is empty"):
        goal_of("val/loss")
