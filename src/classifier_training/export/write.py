"""Writing the whole bundle from a trained network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from classifier_training.core.run_dir import atomic_path
from classifier_training.core.types import softmax
from classifier_training.export.bundle import BundleInfo, describe_file, write_info
from classifier_training.export.golden import write_golden
from classifier_training.export.onnx import evaluation_copy, export_onnx
from classifier_training.export.pipeline import write_pipeline
from classifier_training.export.session import onnx_runner
from classifier_training.export.verify import Parity, verify, verify_pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel
    from classifier_training.export.examples import Examples

REFERENCE_BATCH = 32


def write_bundle(
    run_dir: RunDir, model: BuiltModel, info: BundleInfo, *, examples: Examples, opset: int | None
) -> dict[str, Parity]:
    """Write model.safetensors, model.onnx, pipeline.onnx, golden/, labels_mapping.json and model_info.json.

    Args:
        run_dir: where to.
        model: with the weights to ship.
        info: what to say about it; its `files` are filled in here.
        examples: real images for the comparison.
        opset: of the ONNX operators; None for the exporter's own.

    Returns:
        How each ONNX file compares with PyTorch, by file name.

    Raises:
        CheckFailedError: when an ONNX file answers differently; model_info.json is then not written.
    """
    network = evaluation_copy(model.network)
    preprocessing = info.preprocessing
    write_weights(run_dir.weights, network, info)
    export_onnx(network, run_dir.onnx, image_size=preprocessing.size[0], opset=opset, metadata=info.metadata())
    write_pipeline(run_dir.onnx, preprocessing, run_dir.pipeline)
    expected = reference(network, examples.inputs)
    parities = {
        run_dir.onnx.name: verify(run_dir.onnx, onnx_runner(run_dir.onnx), expected, examples),
        run_dir.pipeline.name: verify_pipeline(run_dir.pipeline, preprocessing, expected, examples),
    }
    write_golden(
        run_dir.golden, examples.paths, preprocessing, lambda inputs: reference(network, inputs), info.class_names
    )
    files = {run_dir.weights.name: describe_file(run_dir.weights, format_name="safetensors")}
    for name, parity in parities.items():
        files[name] = describe_file(run_dir.path / name, format_name="onnx", parity=parity.to_dict())
    write_info(run_dir, dataclasses.replace(info, files=files))
    return parities


def write_weights(path: Path, network: nn.Module, info: BundleInfo) -> None:
    """Write the weights as safetensors, with the bundle's description in its metadata."""
    with atomic_path(path) as temporary:
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, temporary, metadata=info.metadata())


def reference(network: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """PyTorch's probabilities [N, K] for inputs, float32 [N, 3, H, W]."""
    with torch.inference_mode():
        parts = [network(part).numpy() for part in torch.split(torch.from_numpy(inputs), REFERENCE_BATCH)]
    return softmax(np.concatenate(parts))
