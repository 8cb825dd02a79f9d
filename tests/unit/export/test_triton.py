"""The model repository for Triton, read by the protobuf classes of Triton's own client."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format  # type: ignore[import-untyped]
from tests.unit.export.test_export import INFO, PREPROCESSING, examples, job_of, table_of

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import TRAIN, VAL
from classifier_training.export.formats.triton import Triton
from classifier_training.models.timm_models import timm_model


@cache
def model_config() -> Any:
    """Triton's own message, out of its client; the client's package itself would import gRPC."""
    found = importlib.util.find_spec("tritonclient")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = timm_model(3, name="test_resnet", pretrained=False)
    folder = tmp_path_factory.mktemp("images")
    info = dataclasses.replace(INFO, class_names=("", "ü", "a\nb"))
    job = job_of(model, info, examples(folder), tmp_path_factory.mktemp("run"))
    job = dataclasses.replace(job, tables={TRAIN: table_of(folder, 40), VAL: table_of(folder, 40)})
    (file,) = Triton(max_queue_delay=200).export(job)
    assert file.parity is not None
    assert file.parity.passed
    return file.path


def test_its_configuration_is_one_to_triton_and_says_what_the_file_takes_and_gives(repository: Path) -> None:
    message = model_config()
    config = text_format.Parse((repository / "classifier" / "config.pbtxt").read_text(), message.ModelConfig())
    session = onnxruntime.InferenceSession(repository / "classifier" / "1" / config.default_model_filename)
    types = {"tensor(float)": message.TYPE_FP32}
    (given,) = session.get_inputs()
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        (given.name, types[given.type], given.shape[1:])
    ]
    # Triton has no tensors without an axis besides the batch: those are reshaped.
    asked = {
        one.name: (one.data_type, list(one.reshape.shape) if one.HasField("reshape") else list(one.dims))
        for one in config.output
    }
    assert asked == {one.name: (types[one.type], one.shape[1:]) for one in session.get_outputs()}
    assert {"logits", "novelty"} <= set(asked)
    assert (config.name, config.backend, config.max_batch_size) == ("classifier", "onnxruntime", 32)
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 200
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 32]
    for warmup in config.model_warmup:
        assert list(warmup.inputs[given.name].dims) == given.shape[1:]
        assert warmup.inputs[given.name].zero_data
        shape = (warmup.batch_size, *warmup.inputs[given.name].dims)
        assert len(session.run(["logits"], {given.name: np.zeros(shape, np.float32)})[0]) == warmup.batch_size


def test_clients_find_the_preprocessing_and_the_labels_in_it(repository: Path) -> None:
    folder = repository / "classifier"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config().ModelConfig())
    texts = {key: value.string_value for key, value in config.parameters.items()}
    assert Preprocessing.from_dict(json.loads(texts["preprocessing"])) == PREPROCESSING
    assert float(texts["temperature"]) > 0
    assert np.isfinite(float(texts["novelty_threshold"]))
    (labelled,) = [one for one in config.output if one.label_filename]
    assert labelled.name == "logits"
    assert (folder / labelled.label_filename).read_text().split("\n") == ["", "ü", "a b", ""]


def test_its_name_version_and_batch_are_those_that_were_set(repository: Path, tmp_path: Path) -> None:
    model = timm_model(3, name="test_resnet", pretrained=False)
    job = job_of(model, INFO, examples(tmp_path / "images"), tmp_path)
    job = dataclasses.replace(job, target=RunDir(tmp_path / "run"))
    (file,) = Triton(model_name="rooms", model_version=7, max_batch_size=1).export(job)
    text = (file.path / "rooms" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config().ModelConfig())
    assert [warmup.batch_size for warmup in config.model_warmup] == [1]
    assert (file.path / "rooms" / "7" / "model.onnx").is_file()
    assert config.HasField("dynamic_batching")
    assert not config.dynamic_batching.max_queue_delay_microseconds
