"""Runs the exported files of a run on its golden images in one runtime. Needs NumPy and that runtime alone.

python golden_outputs.py onnxruntime RUN_FOLDER OUTPUT.npz

The run folder holds fitted.onnx beside the exported files: the preprocessing of pipeline.onnx, with its pixels as an
output.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Outputs = dict[str, NDArray[Any]]

NUM_ROUNDS = 2
"""How often each image goes through one and the same session: shapes change between images, and state must not stay."""


def read_golden(run: Path) -> tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]]]:
    """Return what model.onnx takes, float32 [1, 3, H, W], and what pipeline.onnx takes, uint8 [height, width, 3]."""
    entries = json.loads((run / "golden" / "golden.json").read_text(encoding="utf-8"))["images"]
    inputs = [np.fromfile(run / "golden" / item["input"], "<f4").reshape(item["input_shape"]) for item in entries]
    images = [
        np.fromfile(run / "golden" / item["rgb"], np.uint8).reshape(item["height"], item["width"], 3)
        for item in entries
    ]
    return inputs, images


def run_model(run: Path, predict: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Outputs:
    """Return the logits of each image alone and of all in one batch, float32 [N, K]."""
    inputs, _ = read_golden(run)
    return {
        "logits": np.concatenate([predict(one) for one in inputs]),
        "batch_logits": predict(np.concatenate(inputs)).copy(),
    }


def run_pipeline(
    run: Path,
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    fit: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
) -> Outputs:
    """Return the probabilities, float32 [NUM_ROUNDS, N, K], and pixels, float32 [NUM_ROUNDS, N, 3, H, W]."""
    _, images = read_golden(run)
    return {
        "probabilities": np.stack([[predict(image).copy() for image in images] for _ in range(NUM_ROUNDS)]),
        "pixels": np.stack([[fit(image)[0].copy() for image in images] for _ in range(NUM_ROUNDS)]),
    }


def onnxruntime_outputs(run: Path) -> Outputs:
    """Run both files with ONNX Runtime on the CPU."""
    import onnxruntime

    def runner(name: str, source: str, output: str) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        session = onnxruntime.InferenceSession(str(run / name), providers=["CPUExecutionProvider"])
        return lambda values: np.asarray(session.run([output], {source: values})[0])

    return {
        "version": np.array(onnxruntime.__version__),
        **run_model(run, runner("model.onnx", "input", "logits")),
        **run_pipeline(
            run, runner("pipeline.onnx", "image", "probabilities"), runner("fitted.onnx", "image", "pixels")
        ),
    }


def openvino_outputs(run: Path) -> Outputs:
    """Run both files with OpenVINO on the CPU, in float32 as the export does."""
    import openvino

    core = openvino.Core()

    def runner(name: str, output: str) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        compiled = core.compile_model(str(run / name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda values: np.asarray(compiled([values])[output])

    return {
        "version": np.array(openvino.__version__),
        **run_model(run, runner("model.onnx", "logits")),
        **run_pipeline(run, runner("pipeline.onnx", "probabilities"), runner("fitted.onnx", "pixels")),
    }


def opencv_outputs(run: Path) -> Outputs:
    """Run model.onnx with OpenCV's dnn module."""
    import cv2

    network = cv2.dnn.readNetFromONNX(str(run / "model.onnx"))

    def predict(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        network.setInput(inputs, "input")
        return np.asarray(network.forward("logits"), dtype=np.float32).copy()

    return {"version": np.array(cv2.__version__), **run_model(run, predict)}


def opencv_pipeline_outputs(run: Path) -> Outputs:
    """Run pipeline.onnx with OpenCV's dnn module, which fails in all its versions so far."""
    import cv2

    network = cv2.dnn.readNetFromONNX(str(run / "pipeline.onnx"))
    _, images = read_golden(run)
    network.setInput(images[0], "image")
    return {"probabilities": np.asarray(network.forward("probabilities"))}


RUNTIMES = {
    "onnxruntime": onnxruntime_outputs,
    "openvino": openvino_outputs,
    "opencv": opencv_outputs,
    "opencv_pipeline": opencv_pipeline_outputs,
}


def main() -> None:
    """Write the outputs of one runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    words = parser.parse_args()
    outputs: dict[str, Any] = dict(RUNTIMES[words.runtime](words.run))
    np.savez(words.output, **outputs)


if __name__ == "__main__":
    main()
