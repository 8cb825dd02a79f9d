"""From a network to an ONNX file."""

from __future__ import annotations

import contextlib
import copy
import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.run_dir import atomic_path
from classifier_training.export.opset import EXPORTER_OPSET, lower_opset, minimize_requirements
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn


def evaluation_copy(network: nn.Module) -> nn.Module:
    """Return a copy for export: float32, on the CPU, in evaluation mode."""
    import torch

    return copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()


def export_onnx(
    network: nn.Module, path: Path, *, image_size: int, opset: int | None, metadata: Mapping[str, str]
) -> None:
    """Write `input` float32 [batch, 3, H, W] -> `logits` float32 [batch, K] as one file.

    Args:
        network: in evaluation mode, on the CPU.
        path: where to.
        image_size: H and W.
        opset: of the ONNX operators; None for the exporter's own.
        metadata: texts that travel in the file.

    Raises:
        UserError: for an operator that an opset below the exporter's own does not have.
    """
    import onnx
    import torch

    # A batch of one would be taken for a constant by torch.export.
    example = torch.zeros(2, 3, image_size, image_size)
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=None if opset is None else max(opset, EXPORTER_OPSET),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(metadata))
    minimize_requirements(model)
    if opset is not None and opset < EXPORTER_OPSET:
        model = lower_opset(model, opset)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


def check_opset(network: nn.Module, *, image_size: int, opset: int) -> None:
    """Make sure, before any training, that a network can be exported in an opset.

    Raises:
        UserError: for an operator that the opset does not have.
    """
    if opset >= EXPORTER_OPSET:
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(evaluation_copy(network), path, image_size=image_size, opset=opset, metadata={})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself off the screen; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
