"""Calibration and the reject option on the real command line: trained, evaluated, predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL, draw_picture
from tests.server import Ended

Command = Callable[..., Ended]


@pytest.mark.slow
def test_a_run_is_calibrated_and_rejects_on_request(
    command: Command, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    baked = "callbacks.onnx_export.bake_temperature=true"
    run = train_here(["data=digits", *SMALL, "data.batch_size=64", "callbacks=[checkpoint,onnx_export]", baked])
    written = json.loads((run / "model_info.json").read_text())["calibration"]
    assert written["num_images"] == 355
    found = json.loads((run / "evaluation/calibration.json").read_text())
    assert (found["split"], found["fitted_on"], found["held_out"]) == ("test", "val", True)
    assert found["temperature"] == written["temperature"]
    assert (run / "evaluation/risk_coverage.png").stat().st_size > 1000
    lines = (run / "evaluation/risk_coverage.csv").read_text().splitlines()
    assert lines[0] == "threshold,coverage,risk"
    assert lines[-1].split(",")[1] == "1.000000"

    assert command("evaluate", f"run={run}", "split=val").code == 0
    own = json.loads((run / "evaluation_val/calibration.json").read_text())
    assert not own["held_out"]
    assert "fitted on" in own["note"]
    assert abs(own["ece_after"] - written["ece_after"]) < 1e-6

    for number in range(4):
        draw_picture(tmp_path / f"foreign/{number}.png", (250, 30, 30 * number), seed=number, size=(90, 60))
    wishes = ["reject.foreign=true", "reject.coverage=0.9", "unknown=true", "output=x.json"]
    done = command("predict", f"run={run}", "source=foreign", *wishes)
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "x.json").read_text())
    assert "accepted by reject.coverage=0.9" in done.out
    for row in rows:
        assert row["rejected"] == (row["label"] == "unknown") == (row["reject_reason"] is not None)
    assert any(row["reject_reason"] == "unlike_training" for row in rows)
    assert "unlike the training data" in done.out

    clash = command("predict", f"run={run}", "source=foreign", "reject.coverage=0.9", "threshold=0.8")
    assert clash.code == 2
    assert len(clash.err.splitlines()) == 3


def test_a_temperature_to_bake_is_refused_before_training_where_there_are_too_few_images(
    command: Command, split_folder: Path
) -> None:
    done = command("train", f"data.root={split_folder}", *SMALL, "callbacks.onnx_export.bake_temperature=true")
    assert done.code == 2
    assert "bake_temperature=true with 9 validation images" in done.err
    assert "epoch" not in done.out
