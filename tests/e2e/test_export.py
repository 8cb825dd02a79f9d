"""The `export` verb on the real command line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from tests.conftest import SETTINGS, SMALL, make_class_folders
from tests.server import Ended

from classifier_training.cli import perform
from classifier_training.core.processes import work_in
from classifier_training.core.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("quick_runs")

Command = Callable[..., Ended]


EXPORTED = (*SMALL, "callbacks=[checkpoint,onnx_export]")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no test changes; its images stay where they are."""
    root = tmp_path_factory.mktemp("trained")
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        make_class_folders(root / "images" / split, dict.fromkeys(("blue", "green", "red"), count))
    return Path(perform("train", [f"data.root={root}/images", *EXPORTED, f"output={root}/outputs"]).run_dir.path)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copied" / trained.name))


@pytest.mark.usefixtures("exported")
def test_a_run_is_exported_in_other_formats_and_quantized(
    command: Command, split_folder: Path, tmp_path: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *EXPORTED])
    before = (run / "report.html").read_text()
    assert "model_int8.onnx" not in before
    done = command("export", f"run={run}", "quantization=int8", "max_drop=20", "format.onnx.opset=20")
    assert done.code == 0, done.err
    assert f"listed in {run}/report.html" in done.out
    page = (run / "report.html").read_text()
    assert page.count("<h2>Exports</h2>") == 1
    assert "model_int8.onnx" in page.partition("<h2>Exports</h2>")[2].partition("</section>")[0]
    assert page.partition("<h2>Exports</h2>")[0] == before.partition("<h2>Exports</h2>")[0]
    assert page.partition("<h2>How to")[2] == before.partition("<h2>How to")[2]
    assert "warning" not in done.err
    for line in ("model.onnx: agrees with PyTorch on 9 of 9 images", "model_int8.onnx: ", "9 validation images"):
        assert line in done.out
    info = json.loads((run / "model_info.json").read_text())
    assert info["quantization"] == "int8"
    assert info["files"].keys() == {
        "model.safetensors", "model.onnx", "pipeline.onnx", "model_int8.onnx", "pipeline_int8.onnx",
    }  # fmt: skip
    assert info["files"]["model_int8.onnx"]["gate"]["num_images"] == 9
    assert onnx.load(run / "model.onnx").opset_import[0].version == 20
    (given,) = onnxruntime.InferenceSession(run / "pipeline_int8.onnx").get_inputs()
    assert given.shape == ["height", "width", 3]

    done = command("evaluate", f"run={run}/model_int8.onnx", f"against={run}")
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    report = json.loads((run / "evaluation_model_int8/classification_report.json").read_text())
    assert report["source"] == "model_int8.onnx"
    verdict = json.loads((run / "evaluation_model_int8/comparison.json").read_text())["verdict"]
    assert f"{run.name}/model_int8.onnx" in verdict
    assert verdict in done.out

    # Elsewhere, from images that have moved.
    shutil.move(split_folder, tmp_path / "moved")
    lost = command("export", f"run={run}", "format=torchscript")
    assert lost.code == 2
    assert "Traceback" not in lost.err
    done = command(
        "export", f"run={run}", "format=[torchscript,ort]", f"images={tmp_path / 'moved'}", f"output={tmp_path / 'out'}"
    )
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.torchscript", "model.ort", "model_info.json", "labels_mapping.json",
    }  # fmt: skip

    # Weights that are not the run's own are named.
    (run / "model.safetensors").write_bytes(b"x")
    broken = command("export", f"run={run}", f"images={tmp_path / 'moved'}")
    assert broken.code == 2
    assert "model.safetensors" in broken.err


@pytest.mark.usefixtures("exported")
def test_half_precision_of_a_calibrated_run_is_written_and_answers(
    command: Command, tmp_path: Path, train_here: Callable[[list[str]], Path]
) -> None:
    """From 30 validation images on a file has the score of novelty, which is put into the copy, too."""
    root = tmp_path / "images"
    for split, number in (("train", 8), ("val", 12), ("test", 3)):
        make_class_folders(root / split, dict.fromkeys(("blue", "green", "red"), number))
    run = train_here([f"data.root={root}", *SMALL, "callbacks=[checkpoint,onnx_export]"])
    done = command("export", f"run={run}", "quantization=fp16")
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if line.startswith("pipeline_fp16.onnx"))
    assert "agrees with model_fp16.onnx on 36 of 36 images" in line
    assert "passed (tolerance 0.001" in line
    foreign = command("predict", f"run={run}/model_fp16.onnx", f"source={root}/test", "reject.foreign=true")
    assert foreign.code == 0, foreign.err


def test_a_refused_export_leaves_nothing_behind(command: Command, run: Path, tmp_path: Path) -> None:
    """No machine has both an NVIDIA GPU's tools and an Apple's, so one of the two formats fails behind the first."""

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.lock"}

    before = content()
    for place in ([], [f"output={tmp_path}/elsewhere"]):
        refused = command("export", f"run={run}", "format=[onnx,tensorrt,coreml]", "format.onnx.opset=19", *place)
        assert refused.code == 2, refused.err
        assert content() == before
    assert not (tmp_path / "elsewhere").exists()


def test_the_description_names_the_quantized_copy_for_as_long_as_it_is_there(command: Command, run: Path) -> None:
    for words, quantization in ((["quantization=fp16"], "fp16"), (["format=torchscript"], "fp16"), ([], "fp16")):
        for place in ("", "elsewhere"):
            output = [f"output={run}/{place}"] if place else []
            done = command("export", f"run={run}", *words, *output)
            assert done.code == 0, done.err
            info = json.loads((run / place / "model_info.json").read_text())
            assert info["quantization"] == quantization
            assert info["files"]["model_fp16.onnx"]["quantization"] == "fp16"
            assert info["files"]["model.onnx"]["quantization"] == "none"


def test_a_run_that_is_written_to_is_exported_elsewhere_alone(command: Command, run: Path, tmp_path: Path) -> None:
    with work_in(RunDir(run)):
        refused = command("export", f"run={run}")
        assert refused.code == 2
        assert f"process {os.getpid()} is writing to this run" in refused.err
        done = command("export", f"run={run}", f"output={tmp_path}/elsewhere")
    assert done.code == 0, done.err
    assert (tmp_path / "elsewhere/model.onnx").is_file()


@pytest.mark.usefixtures("exported")
def test_a_run_that_exported_nothing_is_exported_from_its_checkpoint(
    command: Command, split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    fixed_size = ["model=timm", "model.name=test_vit", "model.pretrained=false", "data.image_size=48", *SETTINGS[1:]]
    run = train_here([f"data.root={split_folder}", *fixed_size, "callbacks=[checkpoint]"])
    asked = command("predict", f"run={run}", f"source={split_folder}")
    assert asked.code == 2
    assert "exported nothing" in asked.err
    done = command("export", f"run={run}", "format=[onnx,safetensors]")
    assert done.code == 0, done.err
    assert command("predict", f"run={run}", f"source={split_folder}", "quiet=true").code == 0
    (run / "model.safetensors").unlink()
    again = command("export", f"run={run}")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["quantization=int8", "format=torchscript"], "format=[onnx,torchscript]"),
        (["max_drop=3"], "max_drop or force without quantization"),
        (["demo=true", "format=torchscript"], "format=[onnx,torchscript]"),
        (["ort=/x"], "ort=/x without demo=true"),
        (["demo=true", "ort=/x"], "/x: no ort.wasm.bundle.min.mjs"),
        (["format=onxx"], "format=onxx: there is no format of that name"),
        (["quantization=int4"], "none | fp16 | int8 | uint8"),
        (["run=nowhere"], "run=nowhere: there is no such folder"),
    ],
)
def test_a_wrong_word_is_answered_before_any_work(command: Command, words: list[str], line: str) -> None:
    done = command("export", *words)
    assert done.code == 2
    assert line in done.err
    assert len(done.err.splitlines()) == 3


def test_a_folder_of_exports_is_of_the_last_run_alone(
    command: Command, run: Path, trained: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    done = command("export", f"run={run}", "quantization=fp16", "max_drop=50", f"output={bundle}")
    assert done.code == 0, done.err
    assert (bundle / "model_fp16.onnx").is_file()
    info = json.loads((bundle / "model_info.json").read_text())
    (bundle / "model_info.json").write_text(json.dumps({**info, "training_info": {"run": "another"}}))
    done = command("export", f"run={run}", f"output={bundle}")
    assert done.code == 0, done.err
    assert "exports of another run: model_fp16.onnx" in done.err
    assert not (bundle / "model_fp16.onnx").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["quantization=int8", "format.onnx.opset=12"], "quantization=int8 with format.onnx.opset=12"),
        (["run=[{run},{run}]", "output=both"], "is named twice"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_any_work(
    command: Command, trained: Path, words: list[str], line: str
) -> None:
    given = [word.replace("{run}", str(trained)) for word in words]
    done = command("export", *([] if given[0].startswith("run=") else [f"run={trained}"]), *given)
    assert done.code == 2
    assert line in done.err
