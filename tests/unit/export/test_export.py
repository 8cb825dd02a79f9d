from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tests.bundles import write_bundle
from tests.conftest import draw_picture

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.types import BuiltModel, SplitTable
from classifier_training.export.bundle import BundleInfo, read_info
from classifier_training.export.examples import Examples, read_examples
from classifier_training.export.formats.onnx import evaluation_copy
from classifier_training.export.formats.pytorch import sort_metadata
from classifier_training.export.job import ExportJob
from classifier_training.export.pipeline import write_pipeline
from classifier_training.export.session import onnx_runner
from classifier_training.export.verify import Parity, verify, verify_pipeline
from classifier_training.models.timm_models import timm_model

PREPROCESSING = Preprocessing(size=(48, 48), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
INFO = BundleInfo(class_names=("", "ü", "c"), preprocessing=PREPROCESSING, architecture="test_resnet")


def examples(folder: Path, number: int = 9) -> Examples:
    """Draw images of many shapes and colours and read them as the checks do."""
    return read_examples(table_of(folder, number), PREPROCESSING, number=number)


def table_of(folder: Path, number: int) -> SplitTable:
    """Draw images of many shapes and colours."""
    folder.mkdir(exist_ok=True)
    paths = []
    for row in range(number):
        path = folder / f"{row}.png"
        colour = tuple(int(level) for level in np.random.default_rng(row).integers(0, 256, 3))
        draw_picture(path, colour, seed=row, size=(30 + 40 * (row % 3), 20 + 30 * (row % 4)))  # type: ignore[arg-type]
        paths.append(str(path))
    return SplitTable("val", paths, np.arange(number) % 3, [""] * number)


def job_of(model: BuiltModel, info: BundleInfo, real: Examples, folder: Path) -> ExportJob:
    network = evaluation_copy(model.network)
    return ExportJob(target=RunDir(folder), network=network, info=info, examples=real, scratch=folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, BuiltModel]:
    run_dir = RunDir(tmp_path_factory.mktemp("run"))
    torch.manual_seed(0)
    model = timm_model(3, name="test_resnet", pretrained=False)
    model.network.train()
    write_bundle(run_dir, model, INFO, examples=examples(tmp_path_factory.mktemp("images")), opset=None)
    return run_dir, model


def test_the_onnx_file_has_the_promised_door_and_carries_its_description(bundle: tuple[RunDir, BuiltModel]) -> None:
    session = onnxruntime.InferenceSession(bundle[0].onnx)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:], given.type) == ("input", [3, 48, 48], "tensor(float)")
    assert (returned.name, returned.shape[1]) == ("logits", 3)
    assert isinstance(given.shape[0], str)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == ["", "ü", "c"]
    assert Preprocessing.from_dict(json.loads(metadata["preprocessing"])) == PREPROCESSING
    assert sorted(path.name for path in bundle[0].path.iterdir()) == [
        "config.json", "golden", "labels_mapping.json", "model.onnx", "model.safetensors", "model_info.json",
        "pipeline.onnx",
    ]  # fmt: skip


def test_exporting_leaves_the_network_as_it_was(bundle: tuple[RunDir, BuiltModel]) -> None:
    assert bundle[1].network.training


def test_the_description_is_what_the_contract_says(bundle: tuple[RunDir, BuiltModel]) -> None:
    run_dir, _ = bundle
    labels = json.loads(run_dir.labels_mapping.read_text())
    assert labels == {
        "num_classes": 3,
        "class_to_idx": {"": 0, "ü": 1, "c": 2},
        "idx_to_class": {"0": "", "1": "ü", "2": "c"},
        "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    info = json.loads(run_dir.model_info.read_text())
    assert info["input_shape"] == [1, 3, 48, 48]
    assert info["files"]["model.onnx"]["sha256"] == sha256(run_dir.onnx)
    parity = info["files"]["model.onnx"]["parity"]
    assert parity["batch_sizes"] == [1, 2, 7]
    assert parity["num_images"] == 9
    assert parity["top1_agreement"] == 1.0
    assert parity["max_probability_difference"] < 1e-4
    assert (parity["passed"], parity["tolerance"]) == (True, 1e-3)
    assert read_info(run_dir).class_names == INFO.class_names


def test_the_weights_are_loadable_without_pickle(bundle: tuple[RunDir, BuiltModel]) -> None:
    run_dir, model = bundle
    with safe_open(run_dir.weights, framework="pt") as file:
        assert json.loads(file.metadata()["class_names"]) == ["", "ü", "c"]
        assert set(file.keys()) == set(model.network.state_dict())


def test_a_file_that_answers_differently_is_a_breach(bundle: tuple[RunDir, BuiltModel], tmp_path: Path) -> None:
    run_dir, model = bundle
    changed = onnx.load(run_dir.onnx)
    weight = next(item for item in changed.graph.initializer if item.dims and item.dims[0] == 3)
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight) + 0.1, weight.name))
    onnx.save(changed, tmp_path / "changed.onnx")
    real = examples(tmp_path)
    expected = job_of(model, INFO, real, tmp_path).expected
    with pytest.raises(CheckFailedError, match="predictions differ"):
        verify(tmp_path / "changed.onnx", onnx_runner(tmp_path / "changed.onnx"), expected, real)


@pytest.mark.parametrize("where", [slice(None), 7])
def test_predictions_that_are_not_finite_fail_the_check(tmp_path: Path, where: slice | int) -> None:
    real = examples(tmp_path)
    expected = np.tile(np.array([0.8, 0.1, 0.1], np.float32), (len(real), 1))

    def runner(inputs: np.ndarray) -> np.ndarray:
        logits = np.log(np.tile(np.array([0.8, 0.1, 0.1], np.float32), (len(inputs), 1)))
        if where == slice(None) or len(inputs) == where:
            logits[:] = np.nan
        return logits

    with pytest.raises(CheckFailedError, match="not finite"):
        verify(Path("model.onnx"), runner, expected, real)


def test_the_pipeline_answers_whole_pictures(bundle: tuple[RunDir, BuiltModel]) -> None:
    run_dir, _ = bundle
    session = onnxruntime.InferenceSession(run_dir.pipeline)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("image", ["height", "width", 3], "tensor(uint8)")
    assert (returned.name, returned.shape, returned.type) == ("probabilities", [3], "tensor(float)")
    parity = json.loads(run_dir.model_info.read_text())["files"]["pipeline.onnx"]["parity"]
    assert parity["top1_agreement"] == 1.0
    assert parity["max_pixel_difference"] == 0
    golden = json.loads((run_dir.golden / "golden.json").read_text())
    assert len(golden["images"]) == 4
    for entry in golden["images"]:
        shape = (entry["height"], entry["width"], 3)
        pixels = np.frombuffer((run_dir.golden / entry["rgb"]).read_bytes(), dtype=np.uint8).reshape(shape)
        assert (pixels == np.asarray(Image.open(run_dir.golden / entry["image"]))).all()
        inputs = np.frombuffer((run_dir.golden / entry["input"]).read_bytes(), dtype="<f4")
        assert (inputs == PREPROCESSING.tensor(Image.fromarray(pixels)).ravel()).all()
        (shares,) = session.run(None, {"image": pixels})
        assert np.abs(shares - entry["probabilities"]).max() < 1e-3
        assert golden["class_names"][shares.argmax()] == entry["label"]


def test_a_pipeline_that_resizes_otherwise_is_a_breach(bundle: tuple[RunDir, BuiltModel], tmp_path: Path) -> None:
    run_dir, model = bundle
    real = examples(tmp_path)
    answer = job_of(model, INFO, real, tmp_path).predict
    write_pipeline(run_dir.onnx, dataclasses.replace(PREPROCESSING, policy="crop"), tmp_path / "other.onnx")
    with pytest.raises(CheckFailedError, match=r"other\.onnx: its preprocessing differs from Python's by") as caught:
        verify_pipeline(tmp_path / "other.onnx", PREPROCESSING, answer, real)
    # What is asked for in a report stands in the message.
    for words in (real.paths[0], "30 x 20 pixels", "squash, bilinear", "Pillow", onnxruntime.__version__):
        assert words in caught.value.came
    assert "verify=false" in caught.value.remedy
    for changed in ({"mean": (0.5, 0.5, 0.50001)}, {"channel_order": "bgr"}):
        write_pipeline(run_dir.onnx, dataclasses.replace(PREPROCESSING, **changed), tmp_path / "other.onnx")
        with pytest.raises(CheckFailedError, match=r"^other\.onnx: differs from Python .* apart for the same pixels"):
            verify_pipeline(tmp_path / "other.onnx", PREPROCESSING, answer, real)


def test_a_pipeline_at_another_temperature_is_a_breach(bundle: tuple[RunDir, BuiltModel], tmp_path: Path) -> None:
    run_dir, model = bundle
    real = examples(tmp_path)
    job = job_of(model, INFO, real, tmp_path)
    write_pipeline(run_dir.onnx, PREPROCESSING, tmp_path / "other.onnx", temperature=0.2)
    with pytest.raises(CheckFailedError, match="apart for the same input"):
        verify_pipeline(tmp_path / "other.onnx", PREPROCESSING, job.predict, real)
    parity = verify_pipeline(tmp_path / "other.onnx", PREPROCESSING, partial(job.predict, temperature=0.2), real)
    assert parity.passed
    assert parity.max_probability_difference < 1e-5


def test_a_comparison_says_whether_it_passed_and_within_what() -> None:
    parity = Parity(
        num_images=28,
        batch_sizes=(1, 2),
        top1_agreement=1.0,
        max_probability_difference=3e-7,
        accuracy=0.964,
        reference_accuracy=0.964,
    )
    assert str(parity).endswith("; passed (tolerance 0.001)")
    assert parity.to_dict()["passed"] is True
    whole = dataclasses.replace(parity, max_pixel_difference=0.0)
    assert "pixels by at most 0 of 255" in str(whole)
    assert str(whole).endswith("; passed (tolerance 0.001, pixels 1 of 255)")
    for failed in (
        dataclasses.replace(parity, max_probability_difference=0.002),
        dataclasses.replace(parity, max_probability_difference=float("nan")),
        dataclasses.replace(whole, max_pixel_difference=2.0),
    ):
        assert "; FAILED (tolerance 0.001" in str(failed)
        assert failed.to_dict()["passed"] is False


def test_colours_reach_the_network_in_its_own_order(tmp_path: Path) -> None:
    model = timm_model(3, name="test_resnet", pretrained=False)
    info = dataclasses.replace(INFO, preprocessing=dataclasses.replace(PREPROCESSING, channel_order="bgr"))
    real = read_examples(
        SplitTable("val", examples(tmp_path, 2).paths, np.zeros(2, dtype=np.int64), [""] * 2),
        info.preprocessing,
        number=2,
    )
    assert (real.inputs[:, ::-1] == examples(tmp_path, 2).inputs).all()
    files = write_bundle(RunDir(tmp_path / "run"), model, info, examples=real, opset=None)
    parities = {file.path.name: file.parity for file in files}
    assert parities["pipeline.onnx"] is not None
    assert parities["pipeline.onnx"].max_probability_difference < 1e-3


@pytest.mark.parametrize(("opset", "ir_version", "runtime"), [(11, 6, "1.0"), (18, 8, "1.14")])
def test_the_opset_can_be_chosen_and_each_file_says_what_it_needs(
    opset: int, ir_version: int, runtime: str, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    tables = {split: table_of(tmp_path / split, 33) for split in ("train", "val")}
    real = read_examples(tables["val"], PREPROCESSING, number=9)
    write_bundle(
        run_dir, timm_model(3, name="test_resnet", pretrained=False), INFO, examples=real, opset=opset, tables=tables
    )
    described = json.loads(run_dir.model_info.read_text())["files"]
    for path in (run_dir.onnx, run_dir.pipeline):
        model = onnx.load(path)
        assert (model.opset_import[0].version, model.ir_version) == (opset, ir_version)
        found = described[path.name]
        assert (found["opset"], found["ir_version"], found["min_onnxruntime"]) == (opset, ir_version, runtime)
        assert found["parity"]["passed"]
    assert "opset" not in described["model.safetensors"]
    # The novelty output is written in the same operators.
    assert {output.name for output in onnx.load(run_dir.onnx).graph.output} == {"logits", "features", "novelty"}


@pytest.mark.parametrize("content", ["{", "{}", '{"class_names": 3}'])
def test_a_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model_info.json").write_text(content)
    with pytest.raises(UserError, match=r"model_info\.json: damaged"):
        read_info(RunDir(tmp_path))


def test_a_run_without_description_has_not_finished(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="has not finished") as caught:
        read_info(RunDir(tmp_path))
    assert "resume=" in caught.value.remedy


def test_a_folder_of_images_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder") as caught:
        read_info(RunDir(tmp_path))
    assert f"evaluate latest data.root={tmp_path}" in caught.value.remedy


def test_normalization_of_a_batch_is_that_of_its_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    stacked = np.stack([PREPROCESSING.normalize(image) for image in pixels])
    assert (PREPROCESSING.normalize(pixels) == stacked).all()


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    state = {name: torch.arange(6.0).reshape(2, 3) for name in ("b", "a")}
    metadata = {name: f'{name}: ü, "quoted" / \\' for name in ("one", "three", "two", "four")}
    found = set()
    for number in range(8):
        # The order of the keys is drawn when the writer's map is made.
        save_file(state, path := tmp_path / f"{number}.safetensors", metadata=metadata)
        sort_metadata(path)
        found.add(path.read_bytes())
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == metadata
            assert torch.equal(opened.get_tensor("a"), state["a"])
    assert len(found) == 1


def test_the_copy_for_export_has_no_in_place_activations_and_leaves_the_network_alone() -> None:
    network = timm_model(3, name="tf_efficientnet_lite0", pretrained=False).network.eval()
    copied = evaluation_copy(network)
    images = torch.rand(2, 3, 64, 64)
    assert not any(getattr(module, "inplace", False) for module in copied.modules())
    assert any(getattr(module, "inplace", False) for module in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(copied(images), network(images))
