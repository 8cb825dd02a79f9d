"""Writing the whole bundle from a trained network."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, reason_of
from classifier_training.core.files import remove
from classifier_training.core.runtime import DETAIL, command, setting
from classifier_training.export.bundle import BundleInfo, write_info
from classifier_training.export.formats.onnx import evaluation_copy, write_golden_of, write_model, write_pipeline_of
from classifier_training.export.formats.pytorch import SafeTensors
from classifier_training.export.job import ExportedFile, ExportJob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import BuiltModel, SplitTable
    from classifier_training.export.examples import Examples

log = logging.getLogger(__name__)


class BundleWriter:
    """Writes a bundle in two parts: the model, and what is made from it. Use it in a `with` block.

    A file that cannot be written, or fails its check, is withheld: it is removed, and named with the reason in the log
    and in model_info.json, which is written after each part. The other files are written all the same.

    Args:
        run_dir: where to.
        model: with the weights to ship.
        info: what to say about it.
        examples: reads real images for the comparison.
        opset: of the ONNX operators; None for the exporter's own.
        tables: the training and validation splits, to calibrate on; None leaves the bundle uncalibrated.
        bake_temperature: whether pipeline.onnx gives calibrated probabilities.

    Attributes:
        info: with the files so far, those that are withheld, and what was fitted to model.onnx.
        files: what was written so far, and how it compares with PyTorch.
    """

    def __init__(
        self,
        run_dir: RunDir,
        model: BuiltModel,
        info: BundleInfo,
        *,
        examples: Callable[[], Examples],
        opset: int | None,
        tables: Mapping[str, SplitTable] | None = None,
        bake_temperature: bool = True,
    ) -> None:
        self.info = info
        self.files: list[ExportedFile] = []
        self._run_dir = run_dir
        self._model = model
        self._examples = examples
        self._opset = opset
        self._tables = tables
        self._bake_temperature = bake_temperature
        self._stack = ExitStack()

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def write_model(self) -> None:
        """Write model.safetensors, model.onnx, labels_mapping.json and model_info.json.

        Raises:
            OSError: when the descriptions cannot be written.
        """
        self._write(self._run_dir.weights, lambda: SafeTensors().export(self._job))
        self._write(self._run_dir.onnx, lambda: [write_model(self._job, opset=self._opset)])
        write_info(self._run_dir, self.info)

    def write_others(self) -> None:
        """Write pipeline.onnx and golden/, and say so in model_info.json.

        Raises:
            OSError: when the descriptions cannot be written.
        """
        calibration = self.info.calibration
        self._write(self._run_dir.pipeline, lambda: [write_pipeline_of(self._job, calibration)])
        self._write(self._run_dir.golden, lambda: write_golden_of(self._job, calibration))
        write_info(self._run_dir, self.info)

    @cached_property
    def _job(self) -> ExportJob:
        return ExportJob(
            target=self._run_dir,
            network=evaluation_copy(self._model.network),
            info=self.info,
            examples=self._examples(),
            scratch=Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))),
            tables=self._tables,
            bake_temperature=self._bake_temperature,
        )

    def _write(self, path: Path, write: Callable[[], list[ExportedFile] | None]) -> None:
        """Write and check one file or folder; what is left of one that fails is removed, an older one too."""
        try:
            files = write() or []
            self.info = with_files(self.info, files)
        except Exception as error:
            remove(path)
            is_told = isinstance(error, UserError)
            words = f"{error}" if is_told else f"{reason_of(error)}\n  to do:    {self._again}"
            log.error("%s is withheld: %s", path.name, words, exc_info=not is_told)  # noqa: TRY400
            # The folder is shared, and the name stands before the reason wherever that is shown.
            reason = reason_of(error).removeprefix(f"{path}: ").replace(f"{self._run_dir.path}/", "")
            self.info = dataclasses.replace(self.info, withheld={**self.info.withheld, path.name: reason})
        except BaseException:
            remove(path)
            raise
        else:
            self.files += files
            for file in files:
                log.info("%s", file, extra=DETAIL)

    @property
    def _again(self) -> str:
        return f"{command('export')} {setting('run', self._run_dir.path)}"


def with_files(info: BundleInfo, files: list[ExportedFile]) -> BundleInfo:
    """Add the description of exported files to a bundle's, and what was fitted to them, in place of older ones."""
    described = {**info.files, **{file.path.name: file.describe() for file in files}}
    calibration = next((file.calibration for file in files if file.calibration is not None), info.calibration)
    schemes = [file.quantization for file in files if file.quantization != "none"]
    return dataclasses.replace(
        info, files=described, calibration=calibration, quantization=schemes[-1] if schemes else info.quantization
    )
