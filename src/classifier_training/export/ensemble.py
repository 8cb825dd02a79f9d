"""One ONNX file of several: its logits are the logarithms of the mean of their calibrated probabilities.

Needs no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.types import softmax
from classifier_training.export.bundle import ENSEMBLE_KEY, TEMPERATURE_KEY
from classifier_training.export.graph import GraphBuilder
from classifier_training.export.job import ExportedFile, ExportJob
from classifier_training.export.novelty import remove_novelty
from classifier_training.export.opset import opset_of
from classifier_training.export.session import BATCH_SIZES, INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.export.session import Runner

TOLERANCE = 1e-5
"""Largest difference of a probability of the file from the mean of its members'."""

MAX_BYTES = 2**31 - 2**20
"""Of an ONNX file in one piece: protobuf takes no more than 2 GiB."""


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
        logits: the ensemble's, which the file must give: inputs float32 [B, 3, H, W] -> logits [B, K].
    """

    network: Any = None
    members: Sequence[Member]
    logits: Runner

    reference = "the mean of its models"

    def predict(self, inputs: NDArray[np.float32], *, temperature: float = 1.0) -> NDArray[np.float32]:
        """Probabilities of the ensemble [N, K] for inputs, float32 [N, 3, H, W], at a temperature."""
        return softmax(self.logits(inputs) / np.float32(temperature))

    def write_onnx(self, path: Path, *, opset: int | None) -> None:
        """Write the models as one ONNX file.

        Raises:
            UserError: when they cannot be in one file, or another opset than theirs is asked for.
        """
        if opset is not None and any(opset_of(onnx.load(member.path)) != opset for member in self.members):
            raise UserError(
                f"format.onnx.opset={opset}: the models of the ensemble were exported in another opset",
                "models that were exported in it",
                f"export each of them with format.onnx.opset={opset} first, or leave it out",
            )
        write_ensemble(self.members, path, metadata=self.info.metadata())

    def finish(
        self,
        path: Path,
        format_name: str,
        runner: Runner | None,
        *,
        note: str = "",
        batch_sizes: tuple[int, ...] = BATCH_SIZES,
    ) -> ExportedFile:
        """Compare a written file with the mean of the models; see the base class.

        Raises:
            CheckFailedError: when an ONNX file is further from it than rounding.
        """
        file = super().finish(path, format_name, runner, note=note, batch_sizes=batch_sizes)
        if file.parity is None:
            return file
        is_onnx = path.suffix == ".onnx"
        parity = dataclasses.replace(
            file.parity, reference=self.reference, tolerance=TOLERANCE if is_onnx else file.parity.tolerance
        )
        if not parity.passed:
            raise CheckFailedError(
                f"{path.name}: probabilities are up to {parity.max_probability_difference:.2g} from {self.reference}",
                f"at most {parity.tolerance:g}",
                "report the architecture; predict run=[…] averages the runs without a file",
            )
        return dataclasses.replace(file, parity=parity)


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
            "fewer models; predict run=[…] averages them without a file",
        )
    model = build_ensemble([onnx.load(member.path) for member in members], [member.temperature for member in members])
    helper.set_model_props(model, {**metadata, TEMPERATURE_KEY: "1.0", ENSEMBLE_KEY: str(len(members))})
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
            logits = tail.add("Div", logits, tail.constant(temperature, np.float32))
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
