"""One ONNX file of several: its logits are the logarithms of the mean of their calibrated probabilities.

Needs no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.types import softmax
from classifier_training.export.bundle import TEMPERATURE_KEY
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.job import ExportedFile, ExportJob
from classifier_training.export.novelty import remove_novelty
from classifier_training.export.opset import opset_of
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, onnx_runner
from classifier_training.export.verify import verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.export.session import Runner

TOLERANCE = 1e-5
"""Largest difference of a probability of the file from the mean of its members'."""

MAX_BYTES = 2**31 - 2**20
"""Of an ONNX file in one piece: protobuf takes no more than 2 GiB."""

REFERENCE = "the mean of its models"


@dataclass(frozen=True)
class Member:
    """A model of an ensemble.

    Args:
        path: its ONNX file.
        temperature: that its logits are divided by.
    """

    path: Path
    temperature: float


@dataclass(frozen=True, kw_only=True)
class EnsembleJob(ExportJob):
    """An ensemble on its way into files: as `ExportJob`, with ONNX files in the place of a network.

    Args:
        members: the models.
        answers: the ensemble's logits, which the file must give: inputs float32 [B, 3, H, W] -> logits [B, K].
    """

    network: Any = None
    members: Sequence[Member]
    answers: Runner

    def answer(self, inputs: NDArray[np.float32], *, temperature: float = 1.0) -> NDArray[np.float32]:
        """Probabilities of the ensemble [N, K] for inputs, float32 [N, 3, H, W], at a temperature."""
        return softmax(self.answers(inputs) / temperature)

    def onnx_source(self) -> Path:
        """Return an ONNX file that other formats can be converted from."""
        path = self.scratch / "source.onnx"
        if not path.exists():
            write_ensemble(self.members, path, metadata=self.info.metadata())
        return path


def write_model(job: EnsembleJob) -> ExportedFile:
    """Write model.onnx of an ensemble and compare it with the mean of its models.

    Raises:
        UserError: when the models cannot be in one file.
        CheckFailedError: when the file gives something else.
    """
    path = job.target.onnx
    write_ensemble(job.members, path, metadata=job.info.metadata())
    if not job.verify:
        return ExportedFile(path=path, format_name="onnx", note="verify=false")
    parity = verify(path, onnx_runner(path), job.expected, job.examples)
    parity = dataclasses.replace(parity, reference=REFERENCE, tolerance=TOLERANCE)
    if not parity.passed:
        raise CheckFailedError(
            f"{path.name}: probabilities are up to {parity.max_probability_difference:.2g} from {REFERENCE}",
            f"at most {TOLERANCE:g}",
            "report the architecture; run= with the folders in a list averages them without a file",
        )
    return ExportedFile(path=path, format_name="onnx", parity=parity)


def write_ensemble(members: Sequence[Member], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write one file from `input` float32 [batch, 3, H, W] to `logits` float32 [batch, K].

    Args:
        members: the models, which take the same input.
        path: where to.
        metadata: texts that travel in the file.

    Raises:
        UserError: for opsets that differ, inputs that differ, or files that are too large together.
    """
    total = sum(member.path.stat().st_size for member in members)
    if total > MAX_BYTES:
        raise UserError(
            f"{path.name}: {len(members)} models of {total / 2**30:.1f} GiB together",
            "at most 2 GiB, which an ONNX file can hold",
            "fewer models; run= with the folders in a list averages them without a file",
        )
    model = build_ensemble([onnx.load(member.path) for member in members], [member.temperature for member in members])
    helper.set_model_props(model, {**metadata, TEMPERATURE_KEY: "1.0"})
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


def build_ensemble(models: Sequence[onnx.ModelProto], temperatures: Sequence[float]) -> onnx.ModelProto:
    """Put models side by side and average their probabilities; see `write_ensemble`.

    Args:
        models: from `input` to `logits`; they are changed.
        temperatures: that the logits of each are divided by.

    Raises:
        UserError: for opsets or inputs that differ.
    """
    for what, found in (
        ("opsets", [opset_of(model) for model in models]),
        ("inputs", [model.graph.input[0].SerializeToString() for model in models]),
    ):
        if len(set(found)) > 1:
            words = f": {', '.join(map(str, found))}" if what == "opsets" else ""
            raise UserError(
                f"the models have different {what}{words}",
                "models that were exported alike",
                "export them again with one format.onnx.opset and preprocessing, or predict with run=[…]",
            )
    given, returned = models[0].graph.input[0], models[0].graph.output[0]
    tail = GraphBuilder("mean/", opset=opset_of(models[0]))
    parts, logarithms = [], []
    for number, (whole, temperature) in enumerate(zip(models, temperatures, strict=True)):
        remove_novelty(whole)
        part = onnx.compose.add_prefix(whole, f"model{number}/")
        for node in part.graph.node:
            for place, name in enumerate(node.input):
                if name == f"model{number}/{INPUT_NAME}":
                    node.input[place] = INPUT_NAME
        parts.append(part)
        logits = f"model{number}/{OUTPUT_NAME}"
        if temperature != 1:
            logits = tail.add("Div", logits, tail.constant(temperature, "float32"))
        logarithms.append(tail.add("LogSoftmax", logits, axis=-1))
    # log(mean(exp(l))) = m + log(mean(exp(l - m))), which takes the logarithm of no 0.
    highest = tail.add("Max", *logarithms)
    mean = tail.add("Mean", *(tail.add("Exp", tail.add("Sub", one, highest)) for one in logarithms))
    tail.nodes.append(helper.make_node("Add", [highest, tail.add("Log", mean)], [OUTPUT_NAME], name="mean/logits"))
    graph = helper.make_graph(
        [*(node for part in parts for node in part.graph.node), *tail.nodes],
        "ensemble",
        [given],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, _shape(returned))],
        [*(item for part in parts for item in part.graph.initializer), *tail.constants],
        value_info=[item for part in parts for item in part.graph.value_info],
    )
    domains = {item.domain: item.version for part in parts for item in part.opset_import}
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in domains.items()],
        ir_version=max(part.ir_version for part in parts),
        functions=[function for part in parts for function in part.functions],
    )
    onnx.checker.check_model(made)
    return made


def _shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [item.dim_param or item.dim_value for item in value.type.tensor_type.shape.dim]
