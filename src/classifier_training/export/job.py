"""What an export format is, what it is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.register import entry_of
from classifier_training.core.types import softmax
from classifier_training.export.bundle import describe_file
from classifier_training.export.session import BATCH_SIZES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitTable
    from classifier_training.export.bundle import BundleInfo, Calibration
    from classifier_training.export.examples import Examples
    from classifier_training.export.gate import Gate
    from classifier_training.export.session import Runner
    from classifier_training.export.verify import Parity

Quantization = Literal["none", "fp16", "int8", "uint8"]
"""int8 has uint8 activations and int8 weights, uint8 has both unsigned; fp16 is half precision."""

REFERENCE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A file, or a folder, that an export wrote.

    Args:
        path: where it is.
        format_name: onnx, torchscript, …
        parity: how it compares with PyTorch; None when it was not compared.
        note: why it was not compared.
        quantization: none, fp16, int8 or uint8.
        gate: what quantization cost and brought.
        calibration: what was fitted to its predictions.
    """

    path: Path
    format_name: str
    parity: Parity | None = None
    note: str = ""
    quantization: str = "none"
    gate: Gate | None = None
    calibration: Calibration | None = None

    def describe(self) -> dict[str, Any]:
        """Return the entry in model_info.json."""
        found = describe_file(
            self.path,
            format_name=self.format_name,
            quantization=self.quantization,
            parity=None if self.parity is None else self.parity.to_dict(),
        )
        if self.path.suffix == ".onnx":
            from classifier_training.export.opset import describe_requirements

            found |= describe_requirements(self.path)
        if self.note:
            found["unverified"] = self.note
        if self.gate is not None:
            found["gate"] = self.gate.to_dict()
        return found

    def __str__(self) -> str:
        words = f"{self.path.name}: {self.parity or self.gate or f'UNVERIFIED: {self.note}'}{self._verdict()}"
        return words if self.calibration is None else f"{words}; {self.calibration}"

    def _verdict(self) -> str:
        if self.parity is not None or self.gate is None:
            return ""
        return (
            f"; {'passed' if self.gate.passed else 'FAILED'}, at most {self.gate.max_drop_points:g} points may be lost"
        )


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """One network on its way into files.

    Args:
        target: folder for the files.
        network: on the CPU, in float32, in evaluation mode.
        info: what to say about it.
        examples: real images to compare on.
        scratch: folder for temporary files.
        verify: whether to compare at all.
        tables: the training and validation splits, to calibrate on; None leaves the bundle as it is.
        bake_temperature: whether pipeline.onnx gives calibrated probabilities.
        expected: PyTorch's probabilities for the examples [N, K].
    """

    target: RunDir
    network: nn.Module
    info: BundleInfo
    examples: Examples
    scratch: Path
    verify: bool = True
    tables: Mapping[str, SplitTable] | None = None
    bake_temperature: bool = True
    expected: NDArray[np.float32] = field(init=False)

    reference: ClassVar[str] = "PyTorch"
    """What files are compared with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "expected", self.predict(self.examples.inputs))

    def predict(self, inputs: NDArray[np.float32], *, temperature: float = 1.0) -> NDArray[np.float32]:
        """PyTorch's probabilities [N, K] for inputs, float32 [N, 3, H, W], at a temperature."""
        import torch

        with torch.inference_mode():
            parts = [self.network(part).numpy() for part in torch.split(torch.from_numpy(inputs), REFERENCE_BATCH)]
        return softmax(np.asarray(np.concatenate(parts) / temperature, dtype=np.float32))

    def finish(
        self,
        path: Path,
        format_name: str,
        runner: Runner | None,
        *,
        note: str = "",
        batch_sizes: tuple[int, ...] = BATCH_SIZES,
    ) -> ExportedFile:
        """Compare a written file with PyTorch where that is wished and possible.

        Args:
            path: the file.
            format_name: of it.
            runner: runs the file; None where its runtime cannot run here.
            note: why there is no runner.
            batch_sizes: that the file takes.

        Raises:
            CheckFailedError: when it predicts differently.
        """
        if runner is None or not self.verify:
            return ExportedFile(path=path, format_name=format_name, note=note or "verify=false")
        from classifier_training.export.verify import verify

        parity = verify(path, runner, self.expected, self.examples, batch_sizes=batch_sizes)
        return ExportedFile(path=path, format_name=format_name, parity=parity)

    def onnx_source(self) -> Path:
        """Return an ONNX file that other formats can be converted from."""
        path = self.scratch / "source.onnx"
        if not path.exists():
            self.write_onnx(path, opset=None)
        return path

    def write_onnx(self, path: Path, *, opset: int | None) -> None:
        """Write the network as ONNX, in an opset or in the exporter's own.

        Raises:
            UserError: for an opset that lacks an operator of the network.
        """
        from classifier_training.export.formats.onnx import export_onnx

        export_onnx(self.network, path, image_size=self.image_size, opset=opset, metadata=self.info.metadata())

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.info.preprocessing.size[0]


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """A format to export to: derive from it, name its file, and say how that is written and run.

    Register it as `group="format"`; the fields are its settings. What it writes is compared with PyTorch on real
    images, put into the run folder only if it agrees, and described in model_info.json.

    Attributes:
        file: name of the file, or of the folder, in the run folder.
        batch_sizes: at which the file is compared.
        from_onnx: whether it is made from an ONNX file alone, so that ensembles can be written in it.
    """

    file: ClassVar[str]
    from_onnx: ClassVar[bool] = False
    batch_sizes: ClassVar[tuple[int, ...]] = BATCH_SIZES

    def write(self, job: ExportJob, path: Path) -> None:
        """Write the job's network to a path that ends in `file`."""
        raise NotImplementedError

    def open(self, job: ExportJob, path: Path) -> Runner:
        """Return what runs the written file: inputs, float32 [B, 3, H, W] -> logits, float32 [B, K]."""
        raise NotImplementedError

    def why_not_run(self) -> str:
        """Say why the file cannot be run on this machine, and so not be compared; empty where it can."""
        return ""

    def export(self, job: ExportJob) -> list[ExportedFile]:
        """Write the file and compare it with PyTorch.

        Raises:
            UserError: when something that the format needs is missing.
            CheckFailedError: when the file predicts differently from PyTorch, or nothing was written.
        """
        known, path = entry_of(self), job.target.path / self.file
        assert known is not None, "a format is registered"
        known.require()
        self.write(job, path)
        if not path.exists():
            raise CheckFailedError(
                f"format={known.name} wrote no {self.file}", "a file of that name", "leave the format out"
            )
        note = self.why_not_run()
        runner = self.open(job, path) if job.verify and not note else None
        return [job.finish(path, known.name, runner, note=note, batch_sizes=self.batch_sizes)]
