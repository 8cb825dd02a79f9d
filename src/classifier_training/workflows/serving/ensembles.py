"""Ensembles of finished runs: opened for predictions, and written as one ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.export.examples import read_examples
from classifier_training.inference.ensemble import Ensemble
from classifier_training.inference.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitTable
    from classifier_training.export.bundle import BundleInfo
    from classifier_training.export.ensemble import EnsembleJob
    from classifier_training.export.job import ExportedFile

NUM_PARITY_IMAGES = 64


def ensemble_job(
    target: RunDir,
    members: Sequence[Predictor],
    info: BundleInfo,
    table: SplitTable,
    scratch: Path,
    *,
    verify: bool = True,
    bake_temperature: bool = True,
    tables: Mapping[str, SplitTable] | None = None,
) -> EnsembleJob:
    """Prepare the export of an ensemble.

    Args:
        target: folder for the files.
        members: the models.
        info: what to say about the ensemble.
        table: images to compare on.
        scratch: folder for temporary files.
        verify: whether to compare at all.
        bake_temperature: whether pipeline.onnx gives calibrated probabilities.
        tables: training and validation images, for a quantised copy.

    Raises:
        UserError: for a model without an ONNX file, and models that prepare images in different ways.
    """
    from classifier_training.export.ensemble import EnsembleJob, Member

    first, *others = members
    for member in members:
        if member.model_path.suffix.lower() != ".onnx":
            raise UserError(
                f"{member.model_path}: a model of the ensemble has no ONNX file",
                "models that were exported as model.onnx",
                "export them: classifier-training export run=…",
            )
    for other in others:
        if other.preprocessing != first.preprocessing:
            raise UserError(
                f"{first.model_path} and {other.model_path} prepare images in different ways: "
                f"{_differences(first, other)}",
                "models with the same preprocessing, which one file can have",
                "predict run=[…] averages them all the same",
            )
    return EnsembleJob(
        target=target,
        info=info,
        examples=read_examples(table, info.preprocessing, number=NUM_PARITY_IMAGES),
        scratch=scratch,
        verify=verify,
        tables=tables,
        bake_temperature=bake_temperature,
        members=[Member(member.model_path, member.temperature) for member in members],
        answers=Ensemble(members, path=target.onnx).run,
    )


def _differences(first: Predictor, other: Predictor) -> str:
    one, two = first.preprocessing.to_dict(), other.preprocessing.to_dict()
    return ", ".join(f"{name} {one[name]} and {two.get(name)}" for name in one if one[name] != two.get(name))


def write_ensemble_model(
    target: RunDir, members: Sequence[Predictor], info: BundleInfo, table: SplitTable
) -> ExportedFile:
    """Write model.onnx of an ensemble into a folder, compared with the mean of its models.

    Args:
        target: the folder.
        members: the models.
        info: what to say about the ensemble.
        table: images to compare on.

    Raises:
        UserError: when the models cannot be in one file.
    """
    from classifier_training.export.ensemble import write_model

    with tempfile.TemporaryDirectory() as scratch:
        return write_model(ensemble_job(target, members, info, table, Path(scratch)))
