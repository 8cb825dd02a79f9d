"""The Open Inference Protocol V2 over REST: requests and responses as JSON, with tensors in JSON or in binary after it.

https://github.com/open-inference/open-inference-protocol, with Triton's extensions for binary tensors and classes.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.service.engine import Engine

LENGTH_HEADER = "inference-header-content-length"
"""Bytes of the JSON at the beginning of a body that has binary tensors after it."""

IMAGE_NAME = "image"
"""The input of images that are not preprocessed: files as BYTES [B], or pixels of any size as UINT8 [B, H, W, 3]."""

PROBABILITIES, NOVELTY = "probabilities", "novelty"

EXTENSIONS = ("binary_tensor_data", "classification")


class MalformedError(ValueError):
    """A request that is not as the protocol has it; the message is for the client."""


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for.

    Args:
        name: of it.
        is_binary: whether it is to come as binary.
        num_classes: how many of the highest are to come, as text, in place of all values; 0 for these.
    """

    name: str
    is_binary: bool
    num_classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request to infer.

    Args:
        id: the client's; None without one.
        tensor: the network's input, float32 [B, 3, H, W]; None where there are images.
        images: image files, or pixels, uint8 [H, W, 3] each.
        wanted: outputs.
    """

    id: str | None
    tensor: NDArray[np.float32] | None
    images: Sequence[bytes | NDArray[np.uint8]]
    wanted: tuple[Wanted, ...]

    @property
    def num_images(self) -> int:
        """Images in it."""
        return len(self.images) if self.tensor is None else len(self.tensor)


def output_shapes(engine: Engine) -> dict[str, list[int]]:
    """Return the outputs of a run with their shapes; -1 stands for the batch."""
    shapes = {OUTPUT_NAME: [-1, len(engine.class_names)], PROBABILITIES: [-1, len(engine.class_names)]}
    return shapes | ({NOVELTY: [-1]} if engine.gives_novelty else {})


def model_metadata(name: str, engine: Engine) -> dict[str, Any]:
    """Return what the protocol says of a model, and beside it what its numbers mean."""
    height, width = engine.preprocessing.size
    return {
        "name": name,
        "versions": [engine.version],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": INPUT_NAME, "datatype": "FP32", "shape": [-1, 3, height, width]}],
        "outputs": [
            {"name": output, "datatype": "FP32", "shape": shape} for output, shape in output_shapes(engine).items()
        ],
        "parameters": {
            "run": engine.run,
            "sha256": engine.predictor.model_sha256,
            "class_names": list(engine.class_names),
            "preprocessing": engine.preprocessing.to_dict(),
            "in_place_of_the_input": [
                {"name": IMAGE_NAME, "datatype": "BYTES", "shape": [-1]},
                {"name": IMAGE_NAME, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            ],
        },
    }


def padding_of(json_length: str | None) -> int:
    """Return how many bytes before a body align the tensor that follows its JSON, which then needs no copy.

    Args:
        json_length: value of `LENGTH_HEADER`; None where all of the body is JSON.
    """
    return -int(json_length) % 8 if _is_length(json_length) else 0


def _is_length(found: str | None) -> TypeGuard[str]:
    return found is not None and found.isascii() and found.isdecimal() and len(found) <= 18


def parse(body: bytes, json_length: str | None, engine: Engine, start: int = 0) -> InferRequest:
    """Read a request to infer.

    Args:
        body: of the request.
        json_length: value of `LENGTH_HEADER`; None where all of the body is JSON.
        engine: that is to answer.
        start: where the request begins in the body.

    Raises:
        MalformedError: when it is none, or not one for this model.
    """
    end = len(body)
    if json_length is not None:
        if not _is_length(json_length) or start + int(json_length) > len(body):
            raise MalformedError(f"{LENGTH_HEADER} {json_length[:32]!r}: expected a number up to {len(body) - start}")
        end = start + int(json_length)
    try:
        values = json.loads(body[start:end])
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the body is no JSON: {error}") from None
    values = _typed(values, dict, "the request")
    binary = _Binary(memoryview(body), end)
    inputs = _typed(values.get("inputs"), list, "inputs")
    if len(inputs) != 1:
        raise MalformedError(f"{len(inputs)} inputs: expected one, {INPUT_NAME} or {IMAGE_NAME}")
    tensor, images = _read_input(_typed(inputs[0], dict, "an input"), binary, engine)
    binary.finish()
    given = values.get("id")
    if given is not None and (not isinstance(given, str) or len(given) > 256):
        raise MalformedError("id: expected a text of up to 256 characters")
    return InferRequest(given, tensor, images, tuple(_wanted(values, engine)))


def _wanted(values: Mapping[str, Any], engine: Engine) -> Iterator[Wanted]:
    usual = _parameters(values).get("binary_data_output", False) is True
    shapes = output_shapes(engine)
    outputs = values.get("outputs")
    if outputs is None or outputs == []:
        yield from (Wanted(name, usual) for name in shapes)
        return
    for output in _typed(outputs, list, "outputs"):
        name = _typed(output, dict, "an output").get("name")
        if not isinstance(name, str) or name not in shapes:
            raise MalformedError(f"output {_brief(name)}: expected one of {', '.join(shapes)}")
        parameters = _parameters(output)
        number = parameters.get("classification", 0)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0 or (number and name == NOVELTY):
            raise MalformedError(f"classification {_brief(number)}: expected a number of classes")
        yield Wanted(name, parameters.get("binary_data", usual) is True, min(number, len(engine.class_names)))


def _read_input(
    values: Mapping[str, Any], binary: _Binary, engine: Engine
) -> tuple[NDArray[np.float32] | None, Sequence[bytes | NDArray[np.uint8]]]:
    name, kind, shape = values.get("name"), values.get("datatype"), _shape(values.get("shape"))
    found = (name, kind) if isinstance(name, str) and isinstance(kind, str) else ("", "")
    size = engine.preprocessing.size
    if found == (INPUT_NAME, "FP32"):
        if len(shape) != 4 or shape[0] < 1 or shape[1:] != (3, *size):
            raise MalformedError(f"{INPUT_NAME} has the shape {list(shape)}: expected [B, 3, {size[0]}, {size[1]}]")
        return _read_array(values, binary, shape, np.dtype("<f4")), ()
    if found == (IMAGE_NAME, "UINT8"):
        shape = (1, *shape) if len(shape) == 3 else shape
        if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
            raise MalformedError(f"{IMAGE_NAME} has the shape {list(shape)}: expected [B, H, W, 3]")
        return None, list(_read_array(values, binary, shape, np.dtype("u1")))
    if found == (IMAGE_NAME, "BYTES"):
        if not shape or min(shape) < 1:
            raise MalformedError(f"{IMAGE_NAME} has the shape {list(shape)}: expected [B]")
        return None, _read_files(values, binary, math.prod(shape))
    raise MalformedError(
        f"input {_brief(name)} of datatype {_brief(kind)}: expected {INPUT_NAME} of FP32, or {IMAGE_NAME} of UINT8 or "
        "BYTES"
    )


def _read_array(values: Mapping[str, Any], binary: _Binary, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    number = math.prod(shape)
    part = binary.take(values)
    if part is not None:
        if len(part) != number * dtype.itemsize:
            raise MalformedError(
                f"{len(part)} bytes: expected {number * dtype.itemsize} for {values['datatype']} {list(shape)}"
            )
        # Without padding a tensor may be unaligned, which the runtime does not take.
        return np.require(np.frombuffer(part, dtype), requirements="A").reshape(shape)
    try:
        found = np.asarray(_typed(values.get("data"), list, "data"))
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"data: {error}") from None
    if found.dtype.kind not in "iuf" or found.size != number:
        what = "no numbers" if found.dtype.kind not in "iuf" else f"{found.size} numbers"
        raise MalformedError(f"data has {what}: expected {number} for the shape {list(shape)}")
    if dtype.kind == "u" and (found.dtype.kind == "f" or found.min() < 0 or found.max() > 255):
        raise MalformedError("data: expected whole numbers from 0 to 255")
    with np.errstate(over="ignore"):
        return found.astype(dtype).reshape(shape)


def _read_files(values: Mapping[str, Any], binary: _Binary, number: int) -> list[bytes]:
    part = binary.take(values)
    if part is None:
        texts = _typed(values.get("data"), list, "data")
        try:
            files = [base64.b64decode(text, validate=True) for text in texts]
        except (TypeError, ValueError, binascii.Error):
            raise MalformedError("data: expected image files in base64; as binary they need none") from None
    else:
        files, start = [], 0
        while start < len(part):
            size = int.from_bytes(part[start : start + 4], "little")
            if start + 4 + size > len(part):
                raise MalformedError(f"{IMAGE_NAME}: a file is longer than the data")
            files.append(bytes(part[start + 4 : start + 4 + size]))
            start += 4 + size
    if len(files) != number:
        raise MalformedError(f"{IMAGE_NAME} has {len(files)} files: expected {number}, as its shape says")
    return files


class _Binary:
    """What follows the JSON of a body, of which each input takes its part."""

    def __init__(self, body: memoryview, start: int) -> None:
        self._body, self._start = body, start

    def take(self, values: Mapping[str, Any]) -> memoryview | None:
        """Return the part of an input; None where its data is in the JSON."""
        size = _parameters(values).get("binary_data_size")
        if size is None:
            return None
        if "data" in values:
            raise MalformedError("an input has data and binary_data_size: expected one of them")
        left = len(self._body) - self._start
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
            raise MalformedError(f"binary_data_size {_brief(size)}: {left} bytes follow the JSON")
        self._start += size
        return self._body[self._start - size : self._start]

    def finish(self) -> None:
        """Make sure that nothing is left."""
        if left := len(self._body) - self._start:
            raise MalformedError(f"{left} bytes follow the JSON that no input's binary_data_size speaks of")


def render(
    request: InferRequest, outputs: Mapping[str, NDArray[np.float32]], *, name: str, engine: Engine
) -> tuple[bytes, int | None]:
    """Return the body of a response, and the bytes of its JSON where binary follows it.

    Args:
        request: that it is the response to.
        outputs: all of the model, by name.
        name: of the model.
        engine: that answered.
    """
    head: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for wanted in request.wanted:
        values = outputs[wanted.name]
        texts = _classified(values, engine.class_names, wanted.num_classes) if wanted.num_classes else None
        kind, shape = ("FP32", values.shape) if texts is None else ("BYTES", (len(texts), wanted.num_classes))
        entry: dict[str, Any] = {"name": wanted.name, "datatype": kind, "shape": list(shape)}
        if wanted.is_binary:
            part = np.ascontiguousarray(values, "<f4").tobytes() if texts is None else _encoded(texts)
            entry["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            entry["data"] = values.ravel().tolist() if texts is None else [text for row in texts for text in row]
        head.append(entry)
    answer = {"model_name": name, "model_version": engine.version, "outputs": head}
    text = json.dumps(answer if request.id is None else {"id": request.id, **answer}, separators=(",", ":")).encode()
    return b"".join([text, *parts]), len(text) if parts else None


def _classified(values: NDArray[np.float32], names: Sequence[str], number: int) -> list[list[str]]:
    """Return the highest of each row as value:place:name."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :number]
    return [
        [f"{row[place]:f}:{place}:{names[place]}" for place in places]
        for row, places in zip(values, order, strict=True)
    ]


def _encoded(texts: Sequence[Sequence[str]]) -> bytes:
    every = [text.encode("utf-8", "replace") for row in texts for text in row]
    return b"".join(len(text).to_bytes(4, "little") + text for text in every)


def _shape(found: Any) -> tuple[int, ...]:
    sizes = _typed(found, list, "shape")
    if len(sizes) > 8 or not all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**31 for size in sizes
    ):
        raise MalformedError(f"shape {_brief(found)}: expected a list of whole numbers")
    return tuple(sizes)


def _parameters(values: Mapping[str, Any]) -> Mapping[str, Any]:
    found = values.get("parameters")
    return {} if found is None else _typed(found, dict, "parameters")


def _typed(found: Any, kind: type, what: str) -> Any:
    if not isinstance(found, kind):
        words = "an object" if kind is dict else "a list"
        raise MalformedError(f"{what}: expected {words}, not {_brief(found)}")
    return found


def _brief(found: Any) -> str:
    text = "nothing" if found is None else repr(found)
    return text if len(text) <= 64 else f"{text[:61]}..."
