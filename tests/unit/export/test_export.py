from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from safetensors import safe_open

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.types import BuiltModel
from classifier_training.export.bundle import BundleInfo, read_info
from classifier_training.export.verify import verify_onnx
from classifier_training.export.write import write_bundle
from classifier_training.models.timm_models import timm_model

PREPROCESSING = Preprocessing(size=(48, 48), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
INFO = BundleInfo(class_names=("", "ü", "c"), preprocessing=PREPROCESSING, architecture="test_resnet")
IMAGES = torch.randint(0, 256, (9, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, BuiltModel]:
    run_dir = RunDir(tmp_path_factory.mktemp("run"))
    torch.manual_seed(0)
    model = timm_model(3, name="test_resnet")
    model.network.train()
    write_bundle(run_dir, model, INFO, images=IMAGES, opset=None)
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
    assert sorted(path.suffix for path in bundle[0].path.iterdir()) == [".json", ".json", ".onnx", ".safetensors"]


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
    inputs = PREPROCESSING.normalize(IMAGES.permute(0, 2, 3, 1).numpy())
    with pytest.raises(CheckFailedError, match="answers differ"):
        verify_onnx(tmp_path / "changed.onnx", model.network.eval(), inputs)
    model.network.train()


def test_the_opset_can_be_chosen(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    write_bundle(run_dir, timm_model(3, name="test_resnet"), INFO, images=IMAGES[:2], opset=18)
    assert onnx.load(run_dir.onnx).opset_import[0].version == 18


@pytest.mark.parametrize("content", ["{", "{}", '{"class_names": 3}'])
def test_a_damaged_description_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model_info.json").write_text(content)
    with pytest.raises(UserError, match=r"model_info\.json: damaged"):
        read_info(RunDir(tmp_path))


def test_a_run_without_description_has_not_finished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not finished"):
        read_info(RunDir(tmp_path))


def test_normalization_of_a_batch_is_that_of_its_images() -> None:
    pixels = IMAGES.permute(0, 2, 3, 1).numpy()
    stacked = np.stack([PREPROCESSING.normalize(image) for image in pixels])
    assert (PREPROCESSING.normalize(pixels) == stacked).all()
