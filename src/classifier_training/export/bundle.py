"""The files that describe a model to other programs, its own doubts among them. Needs neither torch nor onnx."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.labels import write_mapping
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir, sha256, write_json
from classifier_training.core.run_reader import DamagedFileError, read_values
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import VAL
from classifier_training.evaluation.calibration import METHOD, TemperatureChoice
from classifier_training.evaluation.guarantees import METHOD as GUARANTEE
from classifier_training.evaluation.label_sets import TrueScores
from classifier_training.evaluation.reject import AcceptanceCurve
from classifier_training.monitoring.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NOVELTY_NAME = "novelty"
"""The output of an ONNX file that scores how unlike the training data an image is."""

TEMPERATURE_KEY, BAKED_KEY, NOVELTY_KEY = "temperature", "baked_temperature", "novelty_threshold"
"""In the metadata of an ONNX file: what its logits or probabilities are still to be divided by in the logarithm, what
they have been divided by already, and the score above which an image is unlike the training data."""

ENSEMBLE_KEY = "ensemble"
"""In the metadata of an ONNX file that averages models: how many."""


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """The score for images unlike the training data.

    Args:
        threshold: a higher score is an alarm.
        false_alarm_rate: share of the validation images with an alarm.
        method: feature_subspace, or energy where the network has no linear last layer.
    """

    threshold: float
    false_alarm_rate: float
    method: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted on the validation split.

    Args:
        choice: the temperature, and how it was judged.
        curves: the validation predictions by the class that they name, with the confidence at that temperature.
        novelty: the score for images unlike the training data; None for a model without one, such as an ensemble.
        scores: the validation probabilities that label sets come from; None in a bundle of before there were such.
        reference: the validation predictions as a sketch, which `watch` compares with; None for an ensemble, and in a
            bundle of before there was one.
        method: how the temperature was found.
        split: the images that all of it was fitted on.
    """

    choice: TemperatureChoice
    curves: Mapping[str, AcceptanceCurve]
    novelty: Novelty | None
    scores: TrueScores | None = None
    reference: Reference | None = None
    method: str = METHOD
    split: str = VAL

    @property
    def temperature(self) -> float:
        """What the logits are divided by; 1 where that helps nothing."""
        return self.choice.temperature

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into model_info.json."""
        return {
            "method": self.method,
            "split": self.split,
            **asdict(self.choice),
            "novelty": None if self.novelty is None else asdict(self.novelty),
            "guarantee": GUARANTEE,
            **({} if self.scores is None else {"label_sets": self.scores.to_dict()}),
            "classes": {name: curve.to_dict() for name, curve in self.curves.items()},
            **({} if self.reference is None else {"reference": self.reference.to_dict()}),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave.

        Raises:
            ValueError, KeyError, TypeError: when it is something else.
        """
        # A bundle of before temperatures were judged says nothing of that.
        known = {"fitted_temperature": found["temperature"], "reason": "", **found}
        choice = TemperatureChoice(
            **{field.name: known[field.name] for field in fields(TemperatureChoice) if field.name in known}
        )
        if not choice.temperature > 0:
            raise ValueError(f"a temperature of {choice.temperature}")
        return cls(
            choice=choice,
            curves={name: AcceptanceCurve.from_dict(curve) for name, curve in found["classes"].items()},
            novelty=None if found["novelty"] is None else Novelty(**found["novelty"]),
            scores=TrueScores.from_dict(found["label_sets"]) if "label_sets" in found else None,
            reference=Reference.from_dict(found["reference"]) if found.get("reference") else None,
            method=found["method"],
            split=found.get("split", VAL),
        )

    def metadata(self) -> dict[str, str]:
        """Return what a lone ONNX file says of it."""
        texts = {TEMPERATURE_KEY: repr(self.temperature)}
        return texts if self.novelty is None else {**texts, NOVELTY_KEY: repr(self.novelty.threshold)}

    def __str__(self) -> str:
        choice = self.choice
        if choice.reason:
            return f"not calibrated, temperature 1: {choice.reason}"
        words = f"calibrated on {choice.num_images:,} validation images, temperature {choice.temperature:.3f}"
        if choice.log_loss_after is None:
            return words
        return (
            f"{words}; on held-out folds log loss {choice.log_loss_before:.4f} before and {choice.log_loss_after:.4f} "
            f"after, calibration error {choice.ece_before:.4f} before and {choice.ece_after:.4f} after"
        )


@dataclass(frozen=True, kw_only=True)
class BundleInfo:
    """What a bundle says about its model.

    Args:
        class_names: [K], in the order of the outputs.
        preprocessing: from pixels to input.
        architecture: name of the network.
        training_info: best metric, epoch and configuration.
        files: description of each exported file, by file name.
        withheld: why a file could not be shipped, by file name; it is not in the folder.
        quantization: scheme of the newest quantized copy among the files, or none; `files` has each file's own.
        calibration: what was fitted on the validation split; None in a bundle that was not calibrated.
    """

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    architecture: str
    training_info: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    quantization: str = "none"
    calibration: Calibration | None = None

    def metadata(self) -> dict[str, str]:
        """Return what travels inside a weights or ONNX file, as texts."""
        return {
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "preprocessing": json.dumps(self.preprocessing.to_dict()),
            "architecture": self.architecture,
        }


def write_info(run_dir: RunDir, info: BundleInfo) -> None:
    """Write labels_mapping.json and model_info.json; what has been written since is withheld no longer."""
    withheld = {name: reason for name, reason in info.withheld.items() if not (run_dir.path / name).exists()}
    mean, std = list(info.preprocessing.mean), list(info.preprocessing.std)
    normalization = {"mean": mean, "std": std}
    write_json(
        run_dir.labels_mapping,
        {
            **write_mapping(info.class_names),
            "normalization": normalization,
        },
    )
    height, width = info.preprocessing.size
    write_json(
        run_dir.model_info,
        {
            "class_names": list(info.class_names),
            "num_classes": len(info.class_names),
            "input_shape": [1, 3, height, width],
            "input_size": [height, width],
            "normalization": normalization,
            "model_architecture": info.architecture,
            "quantization": info.quantization,
            "preprocessing": info.preprocessing.to_dict(),
            "training_info": dict(info.training_info),
            **({} if info.calibration is None else {"calibration": info.calibration.to_dict()}),
            "files": {name: dict(description) for name, description in info.files.items()},
            **({"withheld": withheld} if withheld else {}),
        },
    )


def describe_file(
    path: Path, *, format_name: str, quantization: str = "none", parity: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a file's entry in model_info.json; `parity` is None for a file that was not compared."""
    return {"format": format_name, "quantization": quantization, "sha256": sha256(path), "parity": parity}


def withheld_reason(run_dir: RunDir, name: str) -> str | None:
    """Return why a file of a run folder was withheld; None where it was not, or the folder says nothing of its files.

    Raises:
        UserError: when model_info.json is damaged.
    """
    if (run_dir.path / name).exists() or not run_dir.model_info.is_file():
        return None
    return read_info(run_dir).withheld.get(name)


def read_info(run_dir: RunDir) -> BundleInfo:
    """Read model_info.json.

    Raises:
        UserError: when it is missing or not what this program writes.
    """
    try:
        found = read_values(run_dir.model_info)
        return BundleInfo(
            class_names=tuple(found["class_names"]),
            preprocessing=Preprocessing.from_dict(found["preprocessing"]),
            architecture=found["model_architecture"],
            training_info=found["training_info"],
            files=found["files"],
            withheld=found.get("withheld", {}),
            quantization=found["quantization"],
            calibration=Calibration.from_dict(found["calibration"]) if "calibration" in found else None,
        )
    except FileNotFoundError as error:
        if run_dir.result.exists():
            raise UserError(
                f"{run_dir.path}: the run has exported nothing",
                "model.onnx and what belongs to it",
                f"{command('export')} {setting('run', run_dir.path)}",
            ) from error
        if not run_dir.config.exists() and not run_dir.resumable:
            raise UserError(
                f"{run_dir.path}: no run folder; it has neither model_info.json nor config.yaml",
                "the folder of a finished run, latest, best or a name; images have a setting of their own",
                f"{command('evaluate')} latest {setting('data.root', run_dir.path)}   (if these are images)",
            ) from error
        raise UserError(
            f"{run_dir.path}: no model_info.json; the run has not finished",
            "the folder of a finished run",
            f"choose another run, or resume this one: {command('train')} {setting('resume', run_dir.path)}",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(run_dir.model_info, f"{type(error).__name__}: {error}") from error
