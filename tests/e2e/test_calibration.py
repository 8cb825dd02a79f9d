"""Calibration and the reject option on the real command line: trained, evaluated, predicted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.conftest import SMALL, draw_picture, read_csv
from tests.server import Ended

Command = Callable[..., Ended]

UNSURE = (
    "model=cnn_v1",
    "data.image_size=16",
    "data.batch_size=16",
    "trainer.max_epochs=10",
    "trainer.accelerator=cpu",
    "trainer.precision=32",
    "optimizer.lr=0.003",
    "loss.label_smoothing=0.6",
)
"""A network that learns from targets so soft that its probabilities are far from what they should be."""


def found_sets(run: Path) -> dict[float, dict[str, float]]:
    """What label sets gave on the test images, by the coverage asked for."""
    found = json.loads((run / "evaluation/calibration.json").read_text())["label_sets"]
    return {item["coverage"]: item for item in found}


@pytest.mark.slow
def test_a_run_is_calibrated_and_rejects_on_request(
    command: Command, train_here: Callable[[list[str]], Path], tmp_path: Path
) -> None:
    run = train_here(["data=digits", *UNSURE, "callbacks=[checkpoint,onnx_export]"])
    written = json.loads((run / "model_info.json").read_text())["calibration"]
    assert written["num_images"] == 355
    assert written["temperature"] < 0.8, "targets so soft make a network far too unsure"
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
    assert abs(own["ece_before"] - written["ece_before"]) < 1e-6
    assert own["ece_after"] < own["ece_before"]

    # The losses of the network and of the probabilities that are given have names of their own, wherever they are.
    result = json.loads((run / "result.json").read_text())["metrics"]
    report = {
        name: figure["value"]
        for name, figure in json.loads((run / "evaluation/classification_report.json").read_text())["metrics"].items()
    }
    for name in ("loss", "calibrated_loss"):
        assert abs(result[name] - report[name]) < 1e-5
    assert result["calibrated_loss"] < result["loss"] - 0.01
    rows = read_csv(run / "evaluation/predictions.csv")
    assert abs(np.mean([float(row["loss"]) for row in rows]) - report["calibrated_loss"]) < 1e-4

    card = (run / "MODEL_CARD.md").read_text()
    assert f"calibrated, with a temperature of {written['temperature']:.3f}" in card
    assert "| Calibration error of the calibrated probabilities |" in card

    # One prediction from every file.
    image = json.loads((run / "golden/golden.json").read_text())["images"][0]
    pixels = np.frombuffer((run / "golden" / image["rgb"]).read_bytes(), dtype=np.uint8)
    given = pixels.reshape(image["height"], image["width"], 3)
    (shares,) = onnxruntime.InferenceSession(run / "pipeline.onnx").run(None, {"image": given})
    words = [f"source={run}/golden/{image['image']}", "probabilities=true", "output=one.json"]
    assert command("predict", f"run={run}", *words).code == 0
    (row,) = json.loads((tmp_path / "one.json").read_text())
    for expected in (list(row["probabilities"].values()), image["probabilities"]):
        assert np.abs(shares - expected).max() < 1e-5

    for number in range(4):
        draw_picture(tmp_path / f"foreign/{number}.png", (250, 30, 30 * number), seed=number, size=(90, 60))
    # Coarse patterns besides, of which this small network finds some foreign; the images above, and finer patterns, it
    # takes for digits.
    for number in range(12):
        pattern = 255 * np.random.default_rng(number).integers(0, 2, (4, 4), dtype=np.uint8)
        Image.fromarray(pattern.repeat(16, 0).repeat(16, 1)).save(tmp_path / f"foreign/pattern{number}.png")
    wishes = ["reject.foreign=true", "reject.coverage=0.9", "unknown=true", "output=x.json"]
    done = command("predict", f"run={run}", "source=foreign", *wishes)
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "x.json").read_text())
    assert "accepted by reject.coverage=0.9" in done.out
    for row in rows:
        assert row["rejected"] == (row["label"] == "unknown") == (row["reject_reason"] is not None)
    assert any(row["reject_reason"] == "unlike_training" for row in rows)
    assert "unlike the training data" in done.out

    folder = f"source={run}/golden"
    tables = {ending: tmp_path / f"sets.{ending}" for ending in ("csv", "json", "parquet")}
    for path in tables.values():
        done = command("predict", f"run={run}", folder, "label_set.coverage=0.9", f"output={path}")
        assert done.code == 0, done.err
        assert "label sets (coverage 0.9 on images like the validation ones): " in done.out
    found = [row["label_set"] for row in json.loads(tables["json"].read_text())]
    assert all(found)
    assert [json.loads(row["label_set"]) for row in read_csv(tables["csv"])] == found
    assert pq.read_table(tables["parquet"])["label_set"].to_pylist() == found
    assert found_sets(run)[0.9]["found_coverage"] > 0.8
    assert "label_set.coverage=C" in card
    assert "reject.precision=P" in card
    assert "Learn then Test" in (run / "evaluation_val/report.html").read_text()

    sure = command("predict", f"run={run}", folder, "reject.precision=0.5", "reject.delta=0.2")
    assert sure.code == 0, sure.err
    assert "reject.precision=0.5 (holds with 80% confidence on images like the validation ones)" in sure.out
    few = command("predict", f"run={run}", folder, "reject.precision=0.999")
    assert few.code == 2
    assert "2,302 at least" in few.err
    asked = command("predict", f"run={run}", folder, "reject.precision=0.999", "reject.guarantee=none")
    assert asked.code == 0, asked.err

    clash = command("predict", f"run={run}", "source=foreign", "reject.coverage=0.9", "threshold=0.8")
    assert clash.code == 2
    assert len(clash.err.splitlines()) == 3


@pytest.mark.usefixtures("quick_runs")
def test_where_no_temperature_was_fitted_nothing_is_refused_and_the_log_says_why(
    command: Command, split_folder: Path
) -> None:
    done = command("train", f"data.root={split_folder}", *SMALL, "callbacks.onnx_export.bake_temperature=true")
    assert done.code == 0, done.err
    assert "not calibrated: 9 validation images, and 30 are needed" in done.out + done.err
    assert "tolerance 0.001" in done.out + done.err
