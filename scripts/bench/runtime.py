"""One image through eager PyTorch, ONNX Runtime in float32 and in int8, in turn, in one process, with equal threads.

Eager PyTorch is the better of both memory formats under inference_mode. The weights are random: speed does not depend
on them. What int8 costs in accuracy is what `classifier-training export quantization=int8` prints for a trained run.

    python scripts/bench/runtime.py --runs 60
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import timm
import torch

from classifier_training.core.runtime import num_cores
from classifier_training.export.formats.onnx import evaluation_copy, export_onnx
from classifier_training.export.quantize import Quantizer
from classifier_training.export.session import measure_side_by_side, onnx_runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

TARGETS = {
    # name: (side in pixels, wanted ORT / eager, wanted int8 / ORT)
    "mobilenetv4_conv_small": (256, 2.7, 1.8),
    "mobilenetv4_conv_medium": (256, 2.3, 2.5),
    "resnet18": (224, 1.2, 3.0),
}


@torch.inference_mode()
def eager(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Answer one image."""
    logits: torch.Tensor = network(image)
    return logits


def batches_of(inputs: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Give inputs in four parts."""
    return iter(np.split(inputs, 4))


def main() -> None:
    """Print the ratios of every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args().runs
    torch.set_num_threads(num_cores())
    print(f"torch {torch.__version__}, {num_cores()} threads each, n {runs}; median (quartiles) in ms")
    for name, (size, wanted_ort, wanted_int8) in TARGETS.items():
        torch.manual_seed(0)
        network = evaluation_copy(timm.create_model(name, num_classes=10))
        inputs = np.random.default_rng(0).normal(size=(32, 3, size, size)).astype(np.float32)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            export_onnx(network, folder / "model.onnx", image_size=size, opset=None, metadata={})
            Quantizer(folder / "model.onnx", "int8", calibration=partial(batches_of, inputs), folder=folder).write(
                folder / "int8.onnx"
            )
            image = torch.from_numpy(inputs[:1])
            candidates: dict[str, Callable[[], object]] = {
                "eager NCHW": partial(eager, network, image),
                "eager channels_last": partial(
                    eager,
                    evaluation_copy(network).to(memory_format=torch.channels_last),
                    image.contiguous(memory_format=torch.channels_last),
                ),
                "ORT float32": partial(onnx_runner(folder / "model.onnx"), inputs[:1]),
                "ORT int8": partial(onnx_runner(folder / "int8.onnx"), inputs[:1]),
            }
            found = dict(zip(candidates, measure_side_by_side(list(candidates.values()), num_runs=runs), strict=True))
            size_ratio = (folder / "int8.onnx").stat().st_size / (folder / "model.onnx").stat().st_size
        print(f"{name}, {size} px")
        for label, latency in found.items():
            low, high = latency.quartiles_ms
            print(f"  {label:<20} {latency.median_ms:7.2f} ({low:.2f}, {high:.2f})")
        best = min(found["eager NCHW"].median_ms, found["eager channels_last"].median_ms)
        float32, int8 = found["ORT float32"].median_ms, found["ORT int8"].median_ms
        print(f"  ORT against the better eager: {best / float32:.2f}x (wanted {wanted_ort}x)")
        print(f"  int8 against float32: {float32 / int8:.2f}x (wanted {wanted_int8}x); file {size_ratio:.2f}x")


if __name__ == "__main__":
    main()
