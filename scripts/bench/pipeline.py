"""pipeline.onnx on a decoded image vs. resizing with OpenCV or Pillow, normalizing and model.onnx, with equal threads.

OpenCV resizes with INTER_AREA, Pillow with the kernel of the pipeline (its box filter for area).

python scripts/bench/pipeline.py --runs 60
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.runtime import num_cores
from classifier_training.export.formats.onnx import evaluation_copy, export_onnx
from classifier_training.export.pipeline import IMAGE_NAME, write_pipeline
from classifier_training.export.session import INPUT_NAME, Latency, measure_side_by_side, open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL, SIZE = "mobilenetv4_conv_medium", 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WANTED = {(1080, 1920): 2.0, (375, 500): 1.3, (SIZE, SIZE): 1.05}
"""Largest ratio to OpenCV for each height and width."""

KERNELS = {"bilinear": "pillow", "bicubic": "pillow", "area": "opencv"}

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}


def with_opencv(session: Any, image: NDArray[np.uint8]) -> object:
    """Resize with OpenCV, normalize, run the model."""
    return normalize_and_run(
        session, np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    )


def with_pillow(session: Any, kernel: str, image: NDArray[np.uint8]) -> object:
    """Resize with Pillow, normalize, run the model."""
    resized = Image.fromarray(image).resize((SIZE, SIZE), FILTERS[kernel])
    return normalize_and_run(session, np.asarray(resized))


def normalize_and_run(session: Any, resized: NDArray[np.uint8]) -> object:
    """Run the model on an image of its input size, uint8 [SIZE, SIZE, 3]."""
    mean, std = np.array(MEAN, dtype=np.float32), np.array(STD, dtype=np.float32)
    scaled = (resized.astype(np.float32) / np.float32(255) - mean) / std
    return session.run(None, {INPUT_NAME: np.ascontiguousarray(scaled.transpose(2, 0, 1))[None]})


def main() -> None:
    """Print the ratios for every image size and kernel."""
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
            candidates = [partial(with_opencv, model, image)]
            candidates += [partial(with_pillow, model, kernel, image) for kernel in KERNELS]
            candidates += [partial(session.run, None, {IMAGE_NAME: image}) for session in pipelines.values()]
            opencv, *others = measure_side_by_side(candidates, num_runs=runs)
            pillow, found = others[: len(KERNELS)], others[len(KERNELS) :]
            print(f"{width} x {height} (load {os.getloadavg()[0]:.1f}): with OpenCV {describe(opencv)}")
            for kernel, by_pillow, latency in zip(KERNELS, pillow, found, strict=True):
                to_opencv, to_pillow = (latency.median_ms / other.median_ms for other in (opencv, by_pillow))
                print(
                    f"  {kernel:<8} with Pillow {describe(by_pillow)}, pipeline.onnx {describe(latency)}: "
                    f"{to_pillow:.2f}x of Pillow, {to_opencv:.2f}x of OpenCV (wanted at most {wanted}x)"
                )


def describe(latency: Latency) -> str:
    """Return the median and quartiles."""
    low, high = latency.quartiles_ms
    return f"{latency.median_ms:.2f} ({low:.2f}, {high:.2f})"


if __name__ == "__main__":
    main()
