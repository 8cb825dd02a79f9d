"""A model that needs no training, and a server of it: in a thread of the test, or a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from PIL import Image
from tests.runs import make_run

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.export.bundle import NOVELTY_KEY, TEMPERATURE_KEY, BundleInfo, write_info
from classifier_training.export.calibrate import set_metadata
from classifier_training.inference.predictor import Predictor
from classifier_training.service.app import Service
from classifier_training.service.engine import PRODUCTION, Engine, SingleArm
from classifier_training.service.limits import Gate
from classifier_training.service.metrics import Metrics
from classifier_training.service.server import listen
from classifier_training.service.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

CLASS_NAMES = ("blue", "green", "red")
PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
INFO = BundleInfo(class_names=CLASS_NAMES, preprocessing=PREPROCESSING, architecture="mean colour")


def write_model(path: Path, *, seed: int = 0) -> Path:
    """Write a linear classifier of the mean colour as a calibrated model.onnx, with a novelty score."""
    draw = np.random.default_rng(seed)
    weights = (8 * np.eye(3)[::-1] + draw.normal(0, 0.5, (3, 3))).astype(np.float32)
    node, tensor, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            node("GlobalAveragePool", ["input"], ["pooled"]),
            node("Flatten", ["pooled"], ["mean"]),
            node("MatMul", ["mean", "weights"], ["logits"]),
            node("Abs", ["mean"], ["distance"]),
            node("ReduceMean", ["distance", "axes"], ["novelty"], keepdims=0),
        ],
        "mean_colour",
        [tensor("input", kind, ["batch", 3, *PREPROCESSING.size])],
        [tensor("logits", kind, ["batch", 3]), tensor("novelty", kind, ["batch"])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, INFO.metadata())
    set_metadata(model, {TEMPERATURE_KEY: "2.5", NOVELTY_KEY: "1.2"})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_run(root: Path, at: str, *, seed: int = 0, score: float = 0.9, name: str | None = "colours") -> RunDir:
    """Write the folder of a finished run that can be promoted and served."""
    run = RunDir(make_run(root, at, score=score, name=name, class_names=CLASS_NAMES))
    values = json.loads(run.model_info.read_text())
    write_model(run.onnx, seed=seed)
    write_info(run, INFO)
    files = {"model.onnx": {**values["files"]["model.onnx"], "sha256": sha256(run.onnx)}}
    run.model_info.write_text(
        json.dumps({**json.loads(run.model_info.read_text()), "training_info": values["training_info"], "files": files})
    )
    return run


def jpeg(colour: tuple[int, int, int], *, size: tuple[int, int] = (40, 30), seed: int = 0, kind: str = "JPEG") -> bytes:
    """Return the bytes of a noisy image of one colour."""
    noise = np.random.default_rng(seed).integers(-25, 25, (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def make_service(model: Path, *, limits: Limits | None = None, max_batch: int = 8, **settings: Any) -> Service:
    """Return a service with one arm."""
    gate = Gate(limits or Limits())
    metrics = Metrics(gate)
    engine = Engine(Predictor(model), run="colours:v1", version="1", max_batch=max_batch)
    metrics.opened(PRODUCTION, engine)
    return Service(SingleArm(engine), gate, metrics, name="colours", version="0", **settings)


@contextmanager
def running(app: ASGIApp) -> Iterator[int]:
    """Answer with an application at a free port, in a thread; gives the port."""
    from classifier_training.service.server import Ending, make_server

    opened, started = listen(0), threading.Event()
    ending = Ending(lambda _: None, drain_s=0, grace_s=5)
    server = make_server(app, started=started.set, ending=ending)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([opened])), daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield opened.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        opened.close()
        assert not thread.is_alive()


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send a request of its own connection; returns status, headers in lower case and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def form(files: list[tuple[str, bytes]], *, boundary: str = "b0undary") -> tuple[bytes, dict[str, str]]:
    """Return a multipart body with files, and its header."""
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + content
        for name, content in files
    ]
    body = b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}
