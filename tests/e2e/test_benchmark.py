"""The `benchmark` verb on the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import SMALL, read_csv
from tests.server import Ended

from classifier_training.export.benchmark import FORMS

Command = Callable[..., Ended]


def test_forms_are_measured_side_by_side(
    command: Command, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    words = ["formats=[onnx,fp16]", "batch_sizes=[1,2]", "num_runs=10", "threads=1"]
    done = command("benchmark", f"run={run}", *words)
    assert done.code == 0, done.err
    assert "ONNX fp16 *" in done.out
    found = json.loads((run / "benchmark/benchmark.json").read_text())
    forms = {form["form"]: form for form in found["forms"]}
    assert forms.keys() == {"onnx", "fp16"}
    assert (found["setting"]["split"], found["setting"]["num_images"], found["setting"]["threads"]) == ("test", 9, 1)
    assert forms["fp16"]["size_bytes"] < forms["onnx"]["size_bytes"]
    assert [(row["form"], row["batch_size"]) for row in read_csv(run / "benchmark/benchmark.csv")] == [
        (form, size) for form in ("onnx", "fp16") for size in ("1", "2")
    ]
    for name in ("deployment_recommendations.md", "latency_batch_1.png", "latency_batch_2.png", "size.png"):
        assert (run / "benchmark" / name).stat().st_size
    assert not (run / "model_fp16.onnx").exists()


@pytest.mark.slow
def test_every_form_answers_as_pytorch_does(
    command: Command, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    done = command("benchmark", f"run={run}", "batch_sizes=[1]", "num_runs=10", "threads=1", "split=val")
    assert done.code == 0, done.err
    found = json.loads((run / "benchmark/benchmark.json").read_text())
    forms = {form["form"]: form for form in found["forms"]}
    assert {"eager", "torchscript", "onnx", "fp16", "int8"} <= forms.keys() <= set(FORMS)
    assert found["setting"]["reference"] == "eager"
    for form in forms.keys() - {"int8"}:
        assert forms[form]["quality"]["max_probability_difference"] < 0.01
    # The one without torch is the smaller process.
    assert forms["onnx"]["peak_memory_mb"] < forms["eager"]["peak_memory_mb"]


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
