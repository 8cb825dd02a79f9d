"""The `benchmark` verb on the real command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.conftest import SMALL, make_class_folders, read_csv
from tests.server import Ended

from classifier_training.cli import perform
from classifier_training.export.benchmark import FORMS
from classifier_training.export.pareto import Option
from classifier_training.workflows.serving.benchmark_files import FileMeasures
from classifier_training.workflows.serving.benchmark_runs import SplitPixels, common_table, read_runs

Command = Callable[..., Ended]


@pytest.mark.usefixtures("drawn")
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
        (["max_latency_ms=0"], "max_latency_ms"),
        (["max_latency_ms=10ms"], "max_latency_ms"),
        (["max_size_mb=-1"], "max_size_mb"),
        (["max_drop=100"], "max_drop"),
        (["max_drop=1", "formats=[eager,onnx]"], "some of onnx, fp16, int8"),
        (["max_drop=1", "batch_sizes=[4]"], "batch_sizes with a wish"),
        (["max_drop=1", "run=[]"], "run=[]: no run"),
        (["image_sizes=[32]"], "image_sizes without a wish"),
        (["run=[a,b]"], "run=[…] of 2 runs without a wish"),
    ],
)
def test_what_cannot_be_measured_is_named(command: Command, words: list[str], line: str) -> None:
    done = command("benchmark", *words)
    assert done.code == 2
    assert line in done.err
    assert "Traceback" not in done.err


EXPORTED = (*SMALL, "callbacks=[checkpoint,onnx_export]")
QUICK = ("num_runs=10", "threads=1", "image_sizes=[24]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 36 validation images, that no test changes; its images stay where they are."""
    root = tmp_path_factory.mktemp("trained")
    for split, count in (("train", 8), ("val", 12), ("test", 5)):
        make_class_folders(root / "images" / split, dict.fromkeys(("blue", "green", "red"), count))
    words = [f"data.root={root}/images", *EXPORTED, "trainer.max_epochs=3", f"output={root}/outputs"]
    return Path(perform("train", words).run_dir.path)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copied" / trained.name))


@pytest.mark.usefixtures("drawn")
def test_the_cheapest_file_that_meets_the_wishes_is_put_into_the_run(
    command: Command, run: Path, tmp_path: Path
) -> None:
    done = command("benchmark", f"run={run}", "max_drop=90", "max_size_mb=1", *QUICK)
    assert done.code == 0, done.err
    found = json.loads((run / "benchmark/pareto.json").read_text())
    files = {Path(one["file"]).relative_to(run).as_posix(): one for one in found["files"]}
    # Float32 is too large, so half precision is among the files.
    assert files.keys() == {f"{folder}model{form}.onnx" for folder in ("", "24px/") for form in ("", "_fp16", "_int8")}
    chosen = Path(found["chosen"])
    assert f"chosen: {chosen}" in done.out
    assert "on 15 test images, which had no part in the choice: loss" in done.out
    row = files[chosen.relative_to(run).as_posix()]
    assert row["size_bytes"] == chosen.stat().st_size <= 2**20
    assert row["loss"]["num_images"] == 36
    assert row["loss"]["bound"] <= 90
    # A file that is not chosen says why, and was measured or ruled out.
    assert [name for name, one in files.items() if one["reason"] is None] == [chosen.relative_to(run).as_posix()]
    assert row["form"] != "onnx"
    assert (run / "benchmark/pareto.png").stat().st_size
    assert [one["chosen"] for one in read_csv(run / "benchmark/pareto.csv")].count("True") == 1
    # The command that is named at the end works.
    line = next(line for line in done.out.splitlines() if "classifier-training predict" in line)
    answered = command(*line.replace("source=…", f"source={images_of(run)}/test output=out.csv").split()[1:])
    assert answered.code == 0, answered.err
    assert len(read_csv(tmp_path / "out.csv")) == 15


def test_a_smaller_input_is_a_bundle_of_its_own(command: Command, run: Path, tmp_path: Path) -> None:
    runs, samples = read_runs([str(run)], None)
    own, smaller = Option(run=0, image_size=32, form="onnx"), Option(run=0, image_size=24, form="int8")
    measures = FileMeasures(
        runs=runs,
        images=SplitPixels(common_table(runs, samples, "val", None, 36), runs[0].info.preprocessing, tmp_path),
        reference=own,
        max_drop=100.0,
        threads=1,
        num_runs=10,
        scratch=tmp_path,
    )
    # Which one is the fastest is up to the machine; this one is put into the run all the same.
    measures.correct(own)
    measures.confirm(smaller)
    assert measures.keep(smaller) == run / "24px/model_int8.onnx"
    info = json.loads((run / "24px/model_info.json").read_text())
    assert info["input_size"] == [24, 24]
    assert info["files"]["model.onnx"]["parity"]["passed"]
    assert info["files"]["pipeline_int8.onnx"]["parity"]["passed"]
    for name in ("24px", "24px/model_int8.onnx"):
        answered = command("predict", f"run={run / name}", f"source={images_of(run)}/test", "output=24px.csv")
        assert answered.code == 0, answered.err
    assert len(read_csv(tmp_path / "24px.csv")) == 15
    assert command("registry", "list", f"output={run.parent.parent}").out.count(run.name) == 1


def images_of(run: Path) -> str:
    return str(yaml.safe_load((run / "config.yaml").read_text())["data"]["root"])


def test_a_wish_that_cannot_be_met_is_named_with_the_nearest_file(command: Command, run: Path) -> None:
    words = ["max_latency_ms=0.001", "max_size_mb=1.0", "max_drop=90", *QUICK]
    done = command("benchmark", f"run={run}", *words)
    assert done.code == 1, done.err
    assert "no file meets all wishes:" in done.out
    found = json.loads((run / "benchmark/pareto.json").read_text())
    assert found["chosen"] is None
    near = {one["wish"]: one for one in found["nearest"]}
    # Nothing is as fast as that, so neither of the other two wishes stands in the way alone.
    assert near["max_size_mb"]["file"] is None is near["max_drop"]["file"]
    assert near["max_latency_ms"]["value"] > 0.001
    assert not (run / "24px").exists()
    assert not (run / "model_int8.onnx").exists()
    # The advice is obeyed. It leaves room for noise, and a machine beside others is noisier: three times the room.
    (advice,) = [line for line in done.out.splitlines() if line.startswith("to try")]
    wish, _, value = advice.rpartition(": ")[2].partition("=")
    assert wish == "max_latency_ms"
    again = command("benchmark", f"run={run}", f"{wish}={3 * float(value)}", *words[1:])
    assert again.code == 0, again.out


@pytest.mark.nightly
def test_runs_are_compared_on_images_that_none_was_trained_on(
    command: Command, run: Path, train_here: Callable[[list[str]], Path]
) -> None:
    other = train_here([f"data.root={images_of(run)}", *EXPORTED, "data.image_size=24"])
    done = command("benchmark", f"run=[{run},{other}]", "max_drop=90", "num_runs=10", "threads=1", "image_sizes=[]")
    assert done.code == 0, done.err
    assert f"A = {run}" in done.out
    found = json.loads((run / "benchmark/pareto.json").read_text())
    assert {Path(one["run"]).name for one in found["files"]} == {run.name, other.name}
    assert sum(one["is_reference"] for one in found["files"]) == 1
    twice = command("benchmark", f"run=[{run},{run}]", "max_drop=90")
    assert (twice.code, "is named twice" in twice.err) == (2, True)


def test_so_few_images_that_no_loss_can_be_shown_are_named(command: Command, run: Path) -> None:
    done = command("benchmark", f"run={run}", "max_drop=1", *QUICK)
    assert done.code == 0, done.err
    assert "36 val images cannot show so small a loss" in done.out
    found = json.loads((run / "benchmark/pareto.json").read_text())
    assert Path(found["chosen"]) == run / "model.onnx"
    assert found["measured"]["made"] == 0
