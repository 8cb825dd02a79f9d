"""Ensembles of finished runs: opened for predictions, and written as one ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.register import entries
from classifier_training.core.types import VAL
from classifier_training.export.bundle import BundleInfo, read_info
from classifier_training.export.examples import read_examples
from classifier_training.inference.ensemble import Ensemble, refuse_other_classes
from classifier_training.workflows.evaluating.run_model import open_exported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitTable
    from classifier_training.export.ensemble import EnsembleJob
    from classifier_training.export.job import ExportFormat
    from classifier_training.inference.predictor import Predictor

NUM_PARITY_IMAGES = 64


@dataclass(frozen=True)
class OpenedEnsemble:
    """The runs of an ensemble.

    Args:
        members: their models.
        info: what is said about the ensemble.
        images: the run whose training and validation images the files are compared on.
    """

    members: Sequence[Predictor]
    info: BundleInfo
    images: RunDir

    def job(
        self,
        target: RunDir,
        tables: Mapping[str, SplitTable],
        scratch: Path,
        *,
        verify: bool = True,
        bake_temperature: bool = True,
    ) -> EnsembleJob:
        """Return the job that writes the ensemble into a folder.

        Args:
            target: the folder.
            tables: with the validation images that the files are compared on.
            scratch: folder for temporary files.
            verify: whether to compare at all.
            bake_temperature: whether pipeline.onnx gives calibrated probabilities.

        Raises:
            UserError: for a model without an ONNX file, and models that prepare images in different ways.
        """
        from classifier_training.export.ensemble import EnsembleJob, Member

        first, *others = self.members
        for member in self.members:
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
            info=self.info,
            examples=read_examples(tables[VAL], self.info.preprocessing, number=NUM_PARITY_IMAGES),
            scratch=scratch,
            verify=verify,
            bake_temperature=bake_temperature,
            members=[Member(member.model_path, member.temperature) for member in self.members],
            logits=Ensemble(self.members, path=target.onnx).run,
        )


def open_ensemble(run_dirs: Sequence[RunDir]) -> OpenedEnsemble:
    """Open a cross-validation, or several runs, for an export as one file.

    Raises:
        UserError: when a run cannot be opened, or has other classes than the first.
    """
    first = run_dirs[0]
    if len(run_dirs) == 1:
        members = [open_exported(fold.path) for fold in first.fold_runs]
        info, images = read_info(first), first.fold(0)
    else:
        members = [open_exported(run_dir.path) for run_dir in run_dirs]
        infos = [read_info(run_dir) for run_dir in run_dirs]
        info = BundleInfo(
            class_names=infos[0].class_names,
            preprocessing=infos[0].preprocessing,
            architecture=" + ".join(info.architecture for info in infos),
            training_info={"runs": [run_dir.path.absolute().name for run_dir in run_dirs]},
        )
        images = first.fold(0) if first.is_cross_validation else first
    refuse_other_classes(members)
    return OpenedEnsemble(members, info, images)


def refuse_formats(formats: Mapping[str, ExportFormat]) -> None:
    """Refuse formats that are made from one network in PyTorch.

    Raises:
        UserError: for the first of them.
    """
    for name, chosen in formats.items():
        if not chosen.from_onnx:
            known = [known.name for known in entries("format") if getattr(known.target, "from_onnx", False)]
            raise UserError(
                f"format={name}: an ensemble has no one network in PyTorch that this format is written from",
                f"one of {enumerate_words(known)}",
                f"format=[{','.join(one for one in formats if formats[one].from_onnx) or 'onnx'}]",
            )


def _differences(first: Predictor, other: Predictor) -> str:
    one, two = first.preprocessing.to_dict(), other.preprocessing.to_dict()
    return ", ".join(f"{name} {one[name]} and {two.get(name)}" for name in one if one[name] != two.get(name))
