"""The one reader of a run folder: its files as plain values. Needs no torch."""

from __future__ import annotations

import csv
import json
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.core.errors import UserError
from classifier_training.core.files import refuse_devices
from classifier_training.core.types import Weights

if TYPE_CHECKING:
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir

_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is eight times as fast, and not everywhere

RESTORE = "restore it from a copy of the run folder, or train again"


class DamagedFileError(UserError):
    """A file of a run is not what the program writes.

    Args:
        path: of the file.
        found: what it is instead.
        remedy: what to do about it.
    """

    def __init__(self, path: Path, found: str, remedy: str = RESTORE) -> None:
        super().__init__(f"{path}: damaged ({found})", "the file that the run wrote", remedy)
        self.path = path
        self.found = found


def read_values(path: Path) -> dict[str, Any]:
    """Read a file of settings or results, JSON or YAML by its ending.

    Raises:
        OSError: when it is missing or cannot be read.
        DamagedFileError: when it is damaged.
        UserError: when it is no file.
    """
    refuse_devices(path)
    kind = "YAML" if path.suffix == ".yaml" else "JSON"
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.load(text, Loader=_YAML_LOADER) if kind == "YAML" else json.loads(text)  # noqa: S506 - safe
    except (ValueError, yaml.YAMLError) as error:
        raise DamagedFileError(path, f"no {kind} of ours: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise DamagedFileError(path, "no table of settings or results")
    return found


def read_rows(path: Path, *, first: int | None = None) -> list[dict[str, str]]:
    """Read a table that a run wrote: a row a line, by the names in its header.

    Args:
        path: of the table.
        first: read so many rows; all when left out.

    Raises:
        OSError: when it is missing or cannot be read.
        DamagedFileError: when it is damaged.
        UserError: when it is no file.
    """
    refuse_devices(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(islice(csv.DictReader(file), first))
    except (ValueError, csv.Error) as error:
        raise DamagedFileError(path, f"no table of ours: {error}") from error


class RunReader:
    """Reads a run folder, each file once, when it is first asked for; one that is missing is empty.

    Args:
        run: the folder.

    Raises:
        DamagedFileError: by any attribute, when its file is damaged.
        OSError: by any attribute, when its file is there and cannot be read.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings that the run had, config.yaml."""
        return _present(self.run.config)

    @cached_property
    def info(self) -> dict[str, Any]:
        """What is said of the model and its files, model_info.json."""
        return _present(self.run.model_info)

    @cached_property
    def result(self) -> dict[str, Any]:
        """What the run gave, result.json."""
        return _present(self.run.result)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of what it ran with, versions.json."""
        return _present(self.run.versions)

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Statistics of its data, dataset/statistics.json."""
        return _present(self.run.statistics)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The metrics of the newest evaluation, evaluation/classification_report.json."""
        return _present(self.run.classification_report)

    @cached_property
    def effect(self) -> dict[str, Any]:
        """The run against the one that it started from, evaluation/corrections_effect.json."""
        return _present(self.run.corrections_effect)

    @cached_property
    def trained_again(self) -> dict[str, Any]:
        """A run that was trained again against the run before, evaluation/trained_again.json."""
        return _present(self.run.trained_again)

    @cached_property
    def epochs(self) -> list[dict[str, str]]:
        """One row an epoch, metrics.csv."""
        try:
            return read_rows(self.run.metrics)
        except FileNotFoundError:
            return []

    @property
    def train_seconds(self) -> float | None:
        """That its epochs took; None where none says so."""
        seconds = [float(row["epoch_seconds"]) for row in self.epochs if row.get("epoch_seconds")]
        return sum(seconds) if seconds else None

    @property
    def architecture(self) -> str:
        """Name of the network; empty where it is not known."""
        return str(self.info.get("model_architecture", ""))

    @property
    def start(self) -> str:
        """The weights that training started from, with their license; empty where it is not known."""
        info = self.info.get("training_info", {})
        if "weights" in info and info["weights"] is None:
            return "random weights"
        found = Weights.from_dict(info.get("weights"))
        return "" if found is None else str(found)


def _present(path: Path) -> dict[str, Any]:
    try:
        return read_values(path)
    except FileNotFoundError:
        return {}
