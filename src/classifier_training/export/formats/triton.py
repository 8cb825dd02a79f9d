"""A model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from classifier_training.core.register import register
from classifier_training.core.run_dir import write_text
from classifier_training.export.bundle import NOVELTY_KEY, TEMPERATURE_KEY
from classifier_training.export.job import ExportFormat
from classifier_training.export.session import OUTPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from classifier_training.export.job import ExportJob
    from classifier_training.export.session import Runner

LABELS = "labels.txt"

PARAMETERS = ("preprocessing", TEMPERATURE_KEY, NOVELTY_KEY)
"""Texts of the ONNX file's metadata that clients need, and that Triton shows them as parameters of the model."""


def _one_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError("the name of a folder: letters, digits, _, . and -")
    return name


@register(group="format", name="triton")
@dataclass(frozen=True, kw_only=True)
class Triton(ExportFormat):
    """A model repository for Triton Inference Server: triton/NAME with config.pbtxt, labels.txt and 1/model.onnx.

    The network alone is served, on images that the client has prepared: Triton gathers requests into batches only where
    their images have one shape. Its parameters hold the preprocessing, the temperature and the novelty threshold.

    Args:
        model_name: that clients ask for.
        model_version: folder of the version; Triton serves the highest one of a repository.
        max_batch_size: most images that are computed at once.
        max_queue_delay: longest time in microseconds that a request waits for others; 0 gathers only those that wait
            anyway.
    """

    model_name: Annotated[str, AfterValidator(_one_name)] = "classifier"
    model_version: Annotated[int, Field(ge=1)] = 1
    max_batch_size: Annotated[int, Field(ge=1)] = 32
    max_queue_delay: Annotated[int, Field(ge=0)] = 0

    file = "triton"
    from_onnx = True

    def write(self, job: ExportJob, path: Path) -> None:
        """Write the repository around the network as ONNX, calibrated where there are images to do so."""
        from classifier_training.export.calibrate import calibrate

        model = self._onnx(path)
        model.parent.mkdir(parents=True)
        shutil.copyfile(job.onnx_source(), model)
        if job.tables is not None:
            calibrate(model, job.info.class_names, job.info.preprocessing, job.tables)
        folder = path / self.model_name
        # Triton takes a line for a label.
        write_text(folder / LABELS, "".join(f"{' '.join(name.splitlines())}\n" for name in job.info.class_names))
        write_text(folder / "config.pbtxt", self.describe(model))

    def open(self, job: ExportJob, path: Path) -> Runner:  # noqa: ARG002 - the file needs nothing else
        """Run the repository's ONNX file in ONNX Runtime, which Triton runs it in, too."""
        from classifier_training.export.session import onnx_runner

        return onnx_runner(self._onnx(path))

    def _onnx(self, path: Path) -> Path:
        return path / self.model_name / str(self.model_version) / "model.onnx"

    def describe(self, model: Path) -> str:
        """Return the configuration, in protobuf's text format, of an ONNX file: its inputs and outputs as they are."""
        from classifier_training.export.session import open_session

        session = open_session(model, num_threads=1)
        ((name, shape),) = [(given.name, _dims(given.shape)) for given in session.get_inputs()]
        outputs = [
            {
                "name": output.name,
                "data_type": Word("TYPE_FP32"),
                # Triton counts the batch apart, and has no tensors without another axis.
                **({"dims": dims} if (dims := _dims(output.shape)) else {"dims": [1], "reshape": {"shape": []}}),
                **({"label_filename": LABELS} if output.name == OUTPUT_NAME else {}),
            }
            for output in session.get_outputs()
        ]
        metadata = session.get_modelmeta().custom_metadata_map
        zeros = {"key": name, "value": {"data_type": Word("TYPE_FP32"), "dims": shape, "zero_data": True}}
        batching = {"max_queue_delay_microseconds": self.max_queue_delay} if self.max_queue_delay else {}
        return text_format(
            {
                "name": self.model_name,
                "backend": "onnxruntime",
                "default_model_filename": "model.onnx",
                "max_batch_size": self.max_batch_size,
                "input": [{"name": name, "data_type": Word("TYPE_FP32"), "dims": shape}],
                "output": outputs,
                "dynamic_batching": batching,
                # The first request of a batch size would wait for what ONNX Runtime prepares.
                "model_warmup": [
                    {"name": f"batch of {size}", "batch_size": size, "inputs": zeros}
                    for size in sorted({1, self.max_batch_size})
                ],
                "parameters": [
                    {"key": key, "value": {"string_value": metadata[key]}} for key in PARAMETERS if key in metadata
                ],
            }
        )


def _dims(shape: list[Any]) -> list[int]:
    """The axes of a tensor without the batch; -1 for one of any length."""
    return [axis if isinstance(axis, int) else -1 for axis in shape[1:]]


class Word(str):
    """A word of protobuf's text format that is no text, such as the name of an enumeration's value."""

    __slots__ = ()


def text_format(message: Mapping[str, Any], *, indent: str = "") -> str:
    """Write a message in protobuf's text format.

    Args:
        message: fields by their names: numbers, texts, words, messages, and lists of these.
        indent: before each line.
    """
    lines = []
    for name, value in message.items():
        for item in value if isinstance(value, list) and not _is_numbers(value) else [value]:
            if isinstance(item, dict):
                lines.append(f"{indent}{name} {{\n{text_format(item, indent=f'{indent}  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar(item)}\n")
    return "".join(lines)


def _is_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return str(value)
    # A text in JSON is one in this format: quotes, backslashes and control characters are escaped alike.
    return json.dumps(value, ensure_ascii=False)
