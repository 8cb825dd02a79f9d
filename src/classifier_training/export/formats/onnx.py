"""ONNX, the network alone and with its preprocessing, and ONNX Runtime's own format."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.run_dir import RunDir, atomic_path
from classifier_training.core.runtime import command, setting
from classifier_training.export.job import ExportedFile, ExportFormat
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from classifier_training.export.bundle import Calibration
    from classifier_training.export.job import ExportJob
    from classifier_training.export.session import Runner


@register(group="format", name="onnx")
@dataclass(frozen=True, kw_only=True)
class Onnx(ExportFormat):
    """ONNX: model.onnx, pipeline.onnx with the preprocessing inside, and golden/ to check other clients with.

    Args:
        opset: version of the ONNX operators, of model.onnx and pipeline.onnx alike; the exporter's own choice when left
            out. Lower ones load in older runtimes.
    """

    opset: Annotated[int, Field(ge=11, le=25)] | None = None

    file = RunDir.onnx.relative
    from_onnx = True

    def export(self, job: ExportJob) -> list[ExportedFile]:
        """Write and compare the files.

        Raises:
            UserError: for an opset that lacks an operator of the network.
            CheckFailedError: when a file predicts differently from PyTorch.
        """
        model = write_model(job, opset=self.opset)
        pipeline = write_pipeline_of(job, model.calibration)
        write_golden_of(job, model.calibration)
        return [model, pipeline]


@register(group="format", name="ort")
@dataclass(frozen=True, kw_only=True)
class Ort(ExportFormat):
    """ONNX Runtime's own format, for its mobile and minimal builds: model.ort."""

    file = "model.ort"
    from_onnx = True

    def write(self, job: ExportJob, path: Path) -> None:
        """Have ONNX Runtime write what it has made of an ONNX file."""
        import onnxruntime

        from classifier_training.export.session import ERRORS_ONLY

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        # Level basic: the file may run on another processor than this one.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(job.onnx_source(), options, providers=["CPUExecutionProvider"])

    def open(self, job: ExportJob, path: Path) -> Runner:  # noqa: ARG002 - the file needs nothing else
        """Run it in ONNX Runtime."""
        from classifier_training.export.session import onnx_runner

        return onnx_runner(path)


def write_model(job: ExportJob, *, opset: int | None) -> ExportedFile:
    """Write model.onnx, calibrate it and compare it with PyTorch.

    Raises:
        CheckFailedError: when it predicts differently.
    """
    from classifier_training.export.calibrate import calibrate
    from classifier_training.export.session import onnx_runner

    path = job.target.onnx
    job.write_onnx(path, opset=opset)
    calibration = None
    if job.tables is not None:
        calibration = calibrate(path, job.info.class_names, job.info.preprocessing, job.tables)
    return dataclasses.replace(job.finish(path, "onnx", onnx_runner(path)), calibration=calibration)


def write_pipeline_of(job: ExportJob, calibration: Calibration | None) -> ExportedFile:
    """Put the preprocessing before the target's model.onnx, and compare both with Python's and PyTorch's.

    Raises:
        UserError: when there is no model.onnx.
        CheckFailedError: when the pipeline does something else.
    """
    from classifier_training.export.pipeline import write_pipeline
    from classifier_training.export.verify import verify_pipeline

    target, preprocessing = job.target, job.info.preprocessing
    if not target.onnx.exists():
        raise UserError(
            f"{target.onnx} is missing, which {target.pipeline.name} is made from",
            "the run's exported model",
            f"{command('export')} {setting('run', target.path)}",
        )
    baked = calibration.temperature if job.bake_temperature and calibration is not None else None
    write_pipeline(target.onnx, preprocessing, target.pipeline, temperature=baked)
    predict = partial(job.predict, temperature=baked or 1.0)
    parity = None
    if job.verify:
        parity = verify_pipeline(target.pipeline, preprocessing, predict, job.examples, reference=job.reference)
    return ExportedFile(
        path=target.pipeline, format_name="onnx", parity=parity, note="" if job.verify else "verify=false"
    )


def write_golden_of(job: ExportJob, calibration: Calibration | None) -> None:
    """Write golden/: a few of the job's images with PyTorch's probabilities, calibrated if the bundle is."""
    from classifier_training.export.examples import write_golden

    # Those that a client gives, who applies the temperature that is left to it.
    predict = partial(job.predict, temperature=1.0 if calibration is None else calibration.temperature)
    write_golden(job.target.golden, job.examples.paths, job.info.preprocessing, predict, job.info.class_names)


def evaluation_copy(network: nn.Module) -> nn.Module:
    """Return a copy for export: float32, on the CPU, in evaluation mode, without in-place activations.

    PyTorch's exporter takes those apart first, and ends with the same operators.
    """
    import torch

    made = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    for module in made.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return made


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

    from classifier_training.export.opset import EXPORTER_OPSET, lower_opset, minimize_requirements

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
    from classifier_training.export.opset import EXPORTER_OPSET

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
