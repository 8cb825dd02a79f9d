"""Writing the whole bundle from a trained network."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.export.bundle import BundleInfo, write_info
from classifier_training.export.formats.onnx import onnx
from classifier_training.export.formats.safetensors import safetensors
from classifier_training.export.job import ExportedFile, ExportJob
from classifier_training.export.onnx import evaluation_copy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel, SplitTable
    from classifier_training.export.examples import Examples


def write_bundle(
    run_dir: RunDir,
    model: BuiltModel,
    info: BundleInfo,
    *,
    examples: Examples,
    opset: int | None,
    tables: Mapping[str, SplitTable] | None = None,
    bake_temperature: bool = True,
) -> list[ExportedFile]:
    """Write model.safetensors, model.onnx, pipeline.onnx, golden/, labels_mapping.json and model_info.json.

    Args:
        run_dir: where to.
        model: with the weights to ship.
        info: what to say about it; its `files` are filled in here.
        examples: real images for the comparison.
        opset: of the ONNX operators; None for the exporter's own.
        tables: the training and validation splits, to calibrate on; None leaves the bundle uncalibrated.
        bake_temperature: whether pipeline.onnx gives calibrated probabilities.

    Returns:
        What was written, and how it compares with PyTorch.

    Raises:
        CheckFailedError: when a file answers differently; model_info.json is then not written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        job = ExportJob(
            target=run_dir,
            network=evaluation_copy(model.network),
            info=info,
            examples=examples,
            scratch=Path(scratch),
            tables=tables,
            bake_temperature=bake_temperature,
        )
        files = [*safetensors(job), *onnx(job, opset=opset)]
    write_info(run_dir, with_files(info, files))
    return files


def with_files(info: BundleInfo, files: list[ExportedFile]) -> BundleInfo:
    """Add the description of exported files to a bundle's, and what was fitted to them, in place of older ones."""
    described = {**info.files, **{file.path.name: file.describe() for file in files}}
    calibration = next((file.calibration for file in files if file.calibration is not None), info.calibration)
    schemes = [file.quantization for file in files if file.quantization != "none"]
    return dataclasses.replace(
        info, files=described, calibration=calibration, quantization=schemes[-1] if schemes else info.quantization
    )
