"""pipeline.onnx on a decoded picture against OpenCV's INTER_AREA, normalisation and model.onnx, with equal threads.

python scripts/bench/pipeline.py --runs 60
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import timm
import torch
from sklearn.datasets import load_sample_image

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.runtime import num_cores
from classifier_training.export.latency import measure_side_by_side
from classifier_training.export.onnx import evaluation_copy, export_onnx
from classifier_training.export.pipeline import IMAGE_NAME, write_pipeline
from classifier_training.export.session import INPUT_NAME, open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL, SIZE = "mobilenetv4_conv_medium", 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WANTED = {(1080, 1920): 2.0, (375, 500): 1.3, (SIZE, SIZE): 1.05}
"""Largest ratio for each height and width."""

KERNELS = {"bilinear": "pillow", "bicubic": "pillow", "area": "opencv"}


def by_hand(session: Any, image: NDArray[np.uint8]) -> object:
    """What a product with OpenCV does: resize, normalise, run the model."""
    resized = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    mean, std = np.array(MEAN, dtype=np.float32), np.array(STD, dtype=np.float32)
    scaled = (resized.astype(np.float32) / np.float32(255) - mean) / std
    return session.run(None, {INPUT_NAME: np.ascontiguousarray(scaled.transpose(2, 0, 1))[None]})


def main() -> None:
    """Print the ratio for every picture size and kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args().runs
    cv2.setNumThreads(num_cores())
    print(f"{MODEL}, {SIZE} px, {num_cores()} threads each, n {runs}; median (quartiles) in ms")
    torch.manual_seed(0)
    photograph = load_sample_image("china.jpg")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = evaluation_copy(timm.create_model(MODEL, num_classes=10))
        export_onnx(network, folder / "model.onnx", image_size=SIZE, opset=None, metadata={})
        model = open_session(folder / "model.onnx")
        pipelines = {}
        for kernel, backend in KERNELS.items():
            made = Preprocessing(size=(SIZE, SIZE), mean=MEAN, std=STD, kernel=kernel, backend=backend)  # type: ignore[arg-type]
            write_pipeline(folder / "model.onnx", made, folder / "pipeline.onnx")
            pipelines[kernel] = open_session(folder / "pipeline.onnx")
        for (height, width), wanted in WANTED.items():
            image = cv2.resize(photograph, (width, height), interpolation=cv2.INTER_LINEAR)
            candidates = [partial(by_hand, model, image)]
            candidates += [partial(session.run, None, {IMAGE_NAME: image}) for session in pipelines.values()]
            baseline, *found = measure_side_by_side(candidates, num_runs=runs)
            low, high = baseline.quartiles_ms
            print(f"{width} x {height}: by hand {baseline.median_ms:.2f} ({low:.2f}, {high:.2f})")
            for kernel, latency in zip(pipelines, found, strict=True):
                low, high = latency.quartiles_ms
                ratio = latency.median_ms / baseline.median_ms
                print(
                    f"  pipeline.onnx, {kernel:<8} {latency.median_ms:.2f} ({low:.2f}, {high:.2f}): {ratio:.2f}x "
                    f"(wanted at most {wanted}x)"
                )


if __name__ == "__main__":
    main()
