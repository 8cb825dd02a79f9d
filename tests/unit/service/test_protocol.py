"""The Open Inference Protocol, asked by Triton's client, and what is refused of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton
from tests.served import CLASS_NAMES, PREPROCESSING, ask, jpeg, write_model

from classifier_training.inference.predictor import Predictor
from classifier_training.service.engine import Engine
from classifier_training.service.protocol import padding_of, parse

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def inputs() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (11, 3, 32, 32)).astype(np.float32)


def test_health_and_metadata_are_what_the_client_reads(port: int) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours", "1")
    assert not client.is_model_ready("others")
    assert not client.is_model_ready("colours", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    found = client.get_model_metadata("colours", "1")
    assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 32, 32]}]
    assert [(output["name"], output["shape"]) for output in found["outputs"]] == [
        ("logits", [-1, 3]), ("probabilities", [-1, 3]), ("novelty", [-1]),
    ]  # fmt: skip
    assert found["parameters"]["class_names"] == list(CLASS_NAMES)
    assert found["parameters"]["preprocessing"] == PREPROCESSING.to_dict()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_in_both_forms_give_what_the_predictor_gives(
    port: int, model: Path, inputs: NDArray[np.float32], *, binary_in: bool, binary_out: bool
) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    given = triton.InferInput("input", list(inputs.shape), "FP32")
    given.set_data_from_numpy(inputs, binary_data=binary_in)
    names = ("logits", "probabilities", "novelty")
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    found = client.infer("colours", [given], outputs=wanted, request_id="7")
    predictor = Predictor(model)
    expected = predictor.infer(inputs)
    assert found.get_response()["id"] == "7"
    assert np.array_equal(found.as_numpy("logits"), expected.logits)
    assert np.array_equal(found.as_numpy("probabilities"), predictor.shares(expected.logits))
    assert expected.novelty is not None
    assert np.array_equal(found.as_numpy("novelty"), expected.novelty)


@pytest.mark.parametrize("spaces", range(9))
def test_binary_tensors_are_read_where_they_lie(model: Path, inputs: NDArray[np.float32], spaces: int) -> None:
    parameters = {"binary_data_size": inputs.nbytes}
    tensor = {"name": "input", "datatype": "FP32", "shape": list(inputs.shape), "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode() + b" " * spaces
    start = padding_of(str(len(head)))
    sent = bytes(start) + head + inputs.tobytes()
    found = parse(sent, str(len(head)), Engine(Predictor(model), run="colours"), start).tensor
    assert found is not None
    assert np.array_equal(found, inputs)
    assert np.shares_memory(found, np.frombuffer(sent, np.uint8))


def test_images_as_files_and_as_pixels_are_prepared_here(port: int, model: Path) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    files = [jpeg((200, 40, 40)), jpeg((30, 60, 200), size=(64, 20), kind="PNG")]
    expected = [item.top_k[0] for item in Predictor(model)([*files])]
    given = triton.InferInput("image", [2], "BYTES")
    given.set_data_from_numpy(np.array(files, dtype=object), binary_data=True)
    found = client.infer("colours", [given]).as_numpy("probabilities")
    assert [(CLASS_NAMES[row.argmax()], float(row.max())) for row in found] == expected

    pixels = np.random.default_rng(0).integers(0, 255, (2, 50, 40, 3)).astype(np.uint8)
    given = triton.InferInput("image", [2, 50, 40, 3], "UINT8")
    for binary in (True, False):
        given.set_data_from_numpy(pixels, binary_data=binary)
        found = client.infer("colours", [given]).as_numpy("probabilities")
        assert found.max(axis=1).tolist() == [one.confidence for one in Predictor(model)(list(pixels))]


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_come_as_text(port: int, inputs: NDArray[np.float32], *, binary: bool) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    given = triton.InferInput("input", list(inputs.shape), "FP32")
    given.set_data_from_numpy(inputs)
    whole = client.infer("colours", [given]).as_numpy("probabilities")
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
    found = client.infer("colours", [given], outputs=[wanted]).as_numpy("probabilities")
    assert found.shape == (11, 2)
    for row, texts in zip(whole, found.tolist(), strict=True):
        best = int(row.argmax())
        text = texts[0].decode() if isinstance(texts[0], bytes) else texts[0]
        assert text == f"{row[best]:f}:{best}:{CLASS_NAMES[best]}"


def body(**changes: Any) -> dict[str, Any]:
    given = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.0] * 3072, **changes}
    return {"inputs": [{name: value for name, value in given.items() if value is not None}]}


BAD: list[tuple[Any, str]] = [
    ([], "expected an object"),
    ({}, "inputs: expected a list, not nothing"),
    ({"inputs": {}}, "inputs: expected a list"),
    ({"inputs": []}, "0 inputs"),
    ({"inputs": [1]}, "an input: expected an object"),
    ({"inputs": body()["inputs"] * 2}, "2 inputs"),
    (body(name="x"), "input 'x' of datatype 'FP32': expected input of FP32, or image"),
    (body(name=[1]), r"input \[1\]"),
    (body(datatype="FP16"), "of datatype 'FP16'"),
    (body(datatype=None), "of datatype nothing"),
    (body(shape=[1, 3, 32, 31]), r"has the shape \[1, 3, 32, 31\]: expected \[B, 3, 32, 32\]"),
    (body(shape=[0, 3, 32, 32], data=[]), "has the shape"),
    (body(shape=[1, -3, 32, 32]), "whole numbers"),
    (body(shape=[True, 3, 32, 32]), "whole numbers"),
    (body(shape=[2**40, 3, 32, 32]), "whole numbers"),
    (body(shape="1,3"), "shape: expected a list"),
    (body(shape=[2, 3, 32, 32]), "data has 3072 numbers: expected 6144"),
    (body(data=None), "data: expected a list, not nothing"),
    (body(data=["a"] * 3072), "data has no numbers"),
    (body(data=[None] * 3072), "data has no numbers"),
    (body(data=[[1.0], [1.0, 2.0]]), "data: "),
    (body(data=[10**400] * 3072), "data"),
    (body(data=[1e300] * 3072), "the model's output is not a number"),
    (body(parameters={"binary_data_size": 10}), "data and binary_data_size"),
    (body(data=None, parameters={"binary_data_size": 12288}), "0 bytes follow the JSON"),
    (body(data=None, parameters={"binary_data_size": -1}), "0 bytes follow"),
    (body(parameters=[]), "parameters: expected an object"),
    ({**body(), "id": 7}, "id: expected a text"),
    ({**body(), "outputs": [{"name": "labels"}]}, "output 'labels': expected one of logits, probabilities, novelty"),
    ({**body(), "outputs": [{}]}, "output nothing"),
    ({**body(), "outputs": [{"name": "novelty", "parameters": {"classification": 1}}]}, "classification 1"),
    ({**body(), "outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, "classification -1"),
    (body(name="image", datatype="UINT8", shape=[1, 2, 2, 4], data=[0] * 16), r"expected \[B, H, W, 3\]"),
    (body(name="image", datatype="UINT8", shape=[1, 1, 1, 3], data=[0, 0, 256]), "from 0 to 255"),
    (body(name="image", datatype="UINT8", shape=[1, 1, 1, 3], data=[0, 0, 0.5]), "from 0 to 255"),
    (body(name="image", datatype="BYTES", shape=[1], data=["###"]), "base64"),
    (body(name="image", datatype="BYTES", shape=[2], data=["aGk="]), "has 1 files: expected 2"),
    (body(name="image", datatype="BYTES", shape=[1], data=["aGk="]), "image 0: is not an image"),
    (body(name="image", datatype="BYTES", shape=[], data=[]), "expected"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "words"), BAD)
def test_a_wrong_request_is_answered_with_what_is_wrong(port: int, values: Any, words: str) -> None:
    status, headers, text = ask(port, "POST", "/v2/models/colours/infer", json.dumps(values).encode())
    found = json.loads(text)
    assert (status, list(found)) == (400, ["error"])
    assert headers["content-type"] == "application/json"

    assert re.search(words, found["error"]), found


def test_bytes_that_are_no_json_or_lie_about_their_length_are_refused(port: int) -> None:
    place = "/v2/models/colours/infer"
    for raw in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"inputs": NaN', b"1" * 10_000):
        status, _, text = ask(port, "POST", place, raw)
        assert (status, "error" in json.loads(text)) == (400, True), raw[:20]
    for wrong in ("-1", "x", "999999", "9" * 100, "1e3"):
        status, _, text = ask(port, "POST", place, b"{}", {"inference-header-content-length": wrong})
        assert status == 400
        assert "expected a number up to 2" in json.loads(text)["error"]
    head = json.dumps(body(data=None, parameters={"binary_data_size": 12288})).encode()
    length = {"inference-header-content-length": str(len(head))}
    assert ask(port, "POST", place, head + bytes(12288), length)[0] == 200
    for rest, words in ((bytes(12287), "12287 bytes follow"), (bytes(12289), "1 bytes follow the JSON that no input")):
        status, _, text = ask(port, "POST", place, head + rest, length)
        assert (status, words in json.loads(text)["error"]) == (400, True)
    files = json.dumps(
        body(name="image", datatype="BYTES", shape=[1], data=None, parameters={"binary_data_size": 8})
    ).encode()
    status, _, text = ask(
        port, "POST", place, files + b"\xff\xff\xff\x7f1234", {"inference-header-content-length": str(len(files))}
    )
    assert (status, "longer than the data" in json.loads(text)["error"]) == (400, True)


def test_other_models_versions_methods_and_addresses(port: int) -> None:
    good = json.dumps(body()).encode()
    assert ask(port, "POST", "/v2/models/colours/versions/1/infer", good)[0] == 200
    for path, words in (
        ("/v2/models/others/infer", "there is no model 'others': this is 'colours'"),
        ("/v2/models/colours/versions/2/infer", "'colours' has no version '2': it is at '1'"),
    ):
        status, _, text = ask(port, "POST", path, good)
        assert (status, json.loads(text)["error"]) == (404, words)
    assert ask(port, "GET", "/v2/models/colours/infer")[0] == 405
    assert json.loads(ask(port, "GET", "/nothing")[2]) == {"error": "Not Found"}


def test_a_model_file_of_another_seed_gives_other_answers(tmp_path: Path, model: Path) -> None:
    other = write_model(tmp_path / "other.onnx", seed=1)
    image = jpeg((120, 100, 140))
    assert Predictor(other)(image).confidence != Predictor(model)(image).confidence
