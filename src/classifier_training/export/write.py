"""Writing the whole bundle from a trained network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from classifier_training.core.run_dir import atomic_path
from classifier_training.export.bundle import BundleInfo, describe_file, write_info
from classifier_training.export.onnx import evaluation_copy, export_onnx
from classifier_training.export.verify import Parity, verify_onnx

if TYPE_CHECKING:
    from torch import Tensor

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel


def write_bundle(run_dir: RunDir, model: BuiltModel, info: BundleInfo, *, images: Tensor, opset: int | None) -> Parity:
    """Write model.safetensors, model.onnx, labels_mapping.json and model_info.json.

    Args:
        run_dir: where to.
        model: with the weights to ship.
        info: what to say about it; its `files` are filled in here.
        images: real images for the comparison, uint8 [N, 3, H, W].
        opset: of the ONNX operators; None for the exporter's own.

    Raises:
        CheckFailedError: when the ONNX file answers differently; model_info.json is then not written.
    """
    network = evaluation_copy(model.network)
    with atomic_path(run_dir.weights) as temporary:
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, temporary, metadata=info.metadata())
    export_onnx(network, run_dir.onnx, image_size=info.preprocessing.size[0], opset=opset, metadata=info.metadata())
    inputs = info.preprocessing.normalize(images.permute(0, 2, 3, 1).numpy())
    parity = verify_onnx(run_dir.onnx, network, inputs)
    files = {
        run_dir.weights.name: describe_file(run_dir.weights, format_name="safetensors", parity=None),
        run_dir.onnx.name: describe_file(run_dir.onnx, format_name="onnx", parity=parity.to_dict()),
    }
    write_info(run_dir, dataclasses.replace(info, files=files))
    return parity
