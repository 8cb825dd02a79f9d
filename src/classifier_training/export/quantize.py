"""Smaller copies of an ONNX file: half precision, and static quantisation to eight bits. Needs no torch.

Static quantisation in QDQ form, a scale for each output channel of a weight: the ranges of the activations are
measured on training images first (Jacob et al. 2018, arXiv:1712.05877). Dynamic quantisation would turn convolutions
into an operator that few runtimes have.
"""

from __future__ import annotations

import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any, Literal

import onnx

from classifier_training.core.run_dir import atomic_path
from classifier_training.export.session import INPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Quantization = Literal["none", "fp16", "int8", "uint8"]
"""int8 has uint8 activations and int8 weights, uint8 has both unsigned; fp16 is half precision."""


class Quantizer:
    """Makes quantised copies of one ONNX file, and measures its activations only once.

    Args:
        source: ONNX file in float32.
        scheme: int8 or uint8.
        calibration: gives batches of real inputs, float32 [B, 3, H, W], from the training split.
        folder: for temporary files.
    """

    def __init__(
        self,
        source: Path,
        scheme: Literal["int8", "uint8"],
        *,
        calibration: Callable[[], Iterator[NDArray[np.float32]]],
        folder: Path,
    ) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self.prepared = folder / "prepared.onnx"
        self._scheme = scheme
        self._calibration = calibration
        self._ranges = folder / "ranges.json"
        self._metadata = onnx.load(source).metadata_props
        with _quiet():
            quant_pre_process(source, self.prepared, skip_symbolic_shape=True)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The operators of the float model that quantisation starts from."""
        return list(onnx.load(self.prepared).graph.node)

    def write(self, target: Path, *, in_float: Collection[str] = (), keep_activations: bool = False) -> None:
        """Write a quantised copy.

        Args:
            target: where to.
            in_float: names of operators to leave alone.
            keep_activations: leave operators such as Relu in the graph where a quantised range does their work.
        """
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        with atomic_path(target) as temporary, _quiet():
            quantize_static(
                self.prepared,
                temporary,
                None if self._ranges.exists() else _reader(self._calibration()),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8 if self._scheme == "int8" else QuantType.QUInt8,
                nodes_to_exclude=list(in_float),
                calibration_cache_path=self._ranges,
                extra_options={"QDQKeepRemovableActivations": keep_activations},
            )
            model = onnx.load(temporary)
            del model.metadata_props[:]
            model.metadata_props.extend(self._metadata)
            onnx.save(model, temporary)


def write_half(source: Path, target: Path) -> None:
    """Write a copy in half precision whose input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with _quiet():
        half = convert_float_to_float16(onnx.load(source), keep_io_types=True)
        # The converter puts the cast of the input behind its users.
        OnnxModel(half).topological_sort()
    with atomic_path(target) as temporary:
        onnx.save(half, temporary)


def _reader(batches: Iterator[NDArray[np.float32]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT_NAME: batch}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' notes about themselves off the screen and out of the log; errors still raise."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
