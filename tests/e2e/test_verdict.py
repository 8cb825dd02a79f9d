"""Targets, and the verdict that is said of them on the screen, in the files and on the page."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL, make_class_folders
from tests.server import Ended

pytestmark = pytest.mark.usefixtures("quick_runs")

CALLBACKS = "callbacks=[checkpoint,history,onnx_export]"


def test_a_run_is_judged_by_its_targets_and_evaluate_by_others(tmp_path: Path, command: Callable[..., Ended]) -> None:
    root = tmp_path / "images"
    for split, number in (("train", 8), ("val", 4), ("test", 40)):
        make_class_folders(root / split, {"blue": number, "red": number})
    words = [f"data.root={root}", *SMALL, CALLBACKS, "trainer.max_epochs=8", "trainer.compile=false"]
    ended = command("train", *words, "target.recall={blue: 0.8, *: 0.7}", f"output={tmp_path}/runs")
    assert ended.code == 0, ended.err
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("result.json"))
    result = json.loads((run / "result.json").read_text())
    assert result["verdict"]["targets"] == {"recall": {"blue": 0.8, "*": 0.7}}
    line = f"verdict: {result['verdict']['status']}: {result['verdict']['words']}"
    assert line in ended.out
    assert result["ended"] == "all 8 epochs are done"
    report = json.loads((run / "evaluation/classification_report.json").read_text())
    assert report["verdict"] == result["verdict"]
    assert result["verdict"]["baseline"]["accuracy"] == 0.5
    page = (run / "report.html").read_text()
    assert """target.recall='{"blue": 0.8, "*": 0.7}'""" in html.unescape(page)
    assert "recall: blue 80 %, other classes 70 % (target.recall)" in page
    assert "ended because" in page
    assert f"Verdict: **{result['verdict']['status']}**" in (run / "MODEL_CARD.md").read_text()

    # The run's own targets hold until others are typed; eighty images cannot show an accuracy of 0.999.
    again = command("evaluate", f"run={run}")
    assert line in again.out
    strict = command("evaluate", f"run={run}", "target.accuracy=0.999", "fail_below_target=true")
    assert strict.code == 1, strict.out + strict.err
    assert "verdict: not ready" in strict.out or "verdict: too few test images" in strict.out
    told = "failed: the verdict is not ready, and fail_below_target=true makes that exit code 1"
    assert told in strict.out
    lenient = command("evaluate", f"run={run}", "target.accuracy=0.999")
    assert lenient.code == 0
    assert told not in lenient.out
    lax = command("evaluate", f"run={run}", "target.recall=0.01", "target.accuracy=0.01", "fail_below_target=true")
    found = json.loads((run / "evaluation/classification_report.json").read_text())["verdict"]
    assert lax.code == int(found["status"] != "ready")
    wrong = command("evaluate", f"run={run}", "target.recall={blu: 0.9}")
    assert wrong.code == 2
    assert "target.recall='{blue: 0.9}'" in wrong.err


def test_a_target_of_an_unknown_class_is_refused_before_a_run_folder_is_made(
    tmp_path: Path, split_folder: Path, command: Callable[..., Ended]
) -> None:
    ended = command(
        "train", f"data.root={split_folder}", *SMALL, "target.recall={grey: 0.9}", f"output={tmp_path}/runs"
    )
    assert ended.code == 2
    assert "the model has no class of that name" in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_was_cut_says_so(tmp_path: Path, split_folder: Path, command: Callable[..., Ended]) -> None:
    length = ["trainer.max_epochs=100000", "trainer.max_time=3", "trainer.compile=false"]
    ended = command("train", f"data.root={split_folder}", *SMALL, *length, CALLBACKS, f"output={tmp_path}/runs")
    assert ended.code == 0, ended.err
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("result.json"))
    assert json.loads((run / "result.json").read_text())["ended"].startswith("trainer.max_time=")
    assert "Training was cut before the end of its schedule" in (run / "report.html").read_text()
    # Three test images of each class cannot tell.
    assert "verdict: " in ended.out
