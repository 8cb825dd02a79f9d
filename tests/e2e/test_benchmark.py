"""The `benchmark` verb on the real command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL, Finished

Command = Callable[..., Finished]


def test_forms_are_measured_side_by_side(
    command: Command, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    words = ["formats=[eager,onnx,int8]", "batch_sizes=[1,2]", "num_runs=10", "threads=1"]
    done = command("benchmark", f"run={run}", *words)
    assert done.code == 0, done.err
    assert "ONNX int8 *" in done.out
    found = json.loads((run / "benchmark/benchmark.json").read_text())
    forms = {form["form"]: form for form in found["forms"]}
    assert forms.keys() == {"eager", "onnx", "int8"}
    assert (found["setting"]["split"], found["setting"]["num_images"], found["setting"]["threads"]) == ("test", 9, 1)
    assert forms["onnx"]["quality"]["agreement"] == 1.0
    assert forms["int8"]["size_bytes"] < forms["onnx"]["size_bytes"]
    # The one without torch is the smaller process.
    assert forms["onnx"]["peak_memory_mb"] < forms["eager"]["peak_memory_mb"]
    with (run / "benchmark/benchmark.csv").open() as file:
        assert [(row["form"], row["batch_size"]) for row in csv.DictReader(file)] == [
            (form, size) for form in ("eager", "onnx", "int8") for size in ("1", "2")
        ]
    for name in ("deployment_recommendations.md", "latency_batch_1.png", "latency_batch_2.png", "size.png"):
        assert (run / "benchmark" / name).stat().st_size
    assert not (run / "model_int8.onnx").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["threads=4096"], "threads=4096: this process has"),
        (["formats=[tflite]"], "formats"),
        (["formats=[]"], "nothing to measure"),
        (["batch_sizes=[]"], "nothing to time"),
        (["batch_sizes=[0]"], "batch_sizes"),
        (["run=nowhere"], "no such folder"),
    ],
)
def test_what_cannot_be_measured_is_named(command: Command, words: list[str], line: str) -> None:
    done = command("benchmark", *words)
    assert done.code == 2
    assert line in done.err
    assert "Traceback" not in done.err
