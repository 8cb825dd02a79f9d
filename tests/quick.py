"""What tests leave out of tiny runs that are about something else, and what takes longer than the rest of them.

Figures are not drawn, and model.onnx is written by PyTorch's older exporter, which traces the network once. It
holds the same network, and the run compares it with PyTorch as it would any file.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from classifier_training.evaluation.drawing import Drawer
from classifier_training.export.opset import EXPORTER_OPSET

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

SUBMIT, EXPORT = Drawer.submit, torch.onnx.export


def leave_out(replace: Callable[[object, str, Any], None], *, figures: bool = True, exporter: bool = True) -> None:
    """Draw no figures, use the older exporter, or both.

    Args:
        replace: `setattr`, or the one of a MonkeyPatch.
        figures: whether figures are left out.
        exporter: whether the exporter is.
    """
    if figures:
        replace(Drawer, "submit", lambda *_: None)
    if exporter:
        replace(torch.onnx, "export", export_quickly)


def put_back(replace: Callable[[object, str, Any], None], *, figures: bool = False, exporter: bool = False) -> None:
    """Draw after all, or export with what users have, in a file whose other tests do not."""
    if figures:
        replace(Drawer, "submit", SUBMIT)
    if exporter:
        replace(torch.onnx, "export", EXPORT)


def is_drawn() -> bool:
    """Whether figures are drawn."""
    return Drawer.submit is SUBMIT


def is_exported() -> bool:
    """Whether files are written by the exporter that users have."""
    return torch.onnx.export is EXPORT


def export_quickly(
    network: torch.nn.Module,
    args: tuple[torch.Tensor],
    *,
    opset_version: int | None,
    input_names: list[str],
    output_names: list[str],
    **others: Any,
) -> Any:
    """Export by tracing the network once. Takes and returns what our call of `torch.onnx.export` does."""
    import io

    import onnx

    from classifier_training.models.shallow_classifiers import ShallowNetwork

    if isinstance(network, ShallowNetwork):
        # Its features take the size of the batch from the example when they are traced.
        return EXPORT(
            network, args, optimize=False, opset_version=opset_version, input_names=input_names,
            output_names=output_names, **others,
        )  # fmt: skip
    made = io.BytesIO()  # which this exporter takes, too
    EXPORT(
        network,
        args,
        made,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=opset_version or EXPORTER_OPSET,
        input_names=input_names,
        output_names=output_names,
        dynamic_axes={name: {0: "batch"} for name in (*input_names, *output_names)},
    )
    model: ModelProto = onnx.load_model_from_string(made.getvalue())
    return SimpleNamespace(model_proto=model)
