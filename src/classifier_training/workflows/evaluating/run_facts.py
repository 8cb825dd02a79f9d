"""What a run folder says about its run, for the report and the model card. Needs no torch."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.core.types import TRAIN, Weights
from classifier_training.data.splitting.splits import read_manifest
from classifier_training.workflows.evaluating.reproduce import train_command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir


@dataclass(frozen=True)
class RunFacts:
    """The files of a run folder that could be read; empty where the folder lacks them, as that of a lone file does.

    Args:
        info: model_info.json.
        config: config.yaml.
        versions: versions.json.
        statistics: dataset/statistics.json.
        train_counts: training images of each class, by splits.csv.
        data_checks: lines that the checks before training said.
        num_epochs: rows of metrics.csv.
    """

    info: Mapping[str, Any]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    statistics: Mapping[str, Any]
    train_counts: Mapping[str, int]
    data_checks: tuple[str, ...]
    num_epochs: int

    @classmethod
    def read(cls, run_dir: RunDir) -> RunFacts:
        """Read a run folder."""
        config = yaml.safe_load(run_dir.config.read_text(encoding="utf-8")) if run_dir.config.exists() else {}
        statistics = _read(run_dir.dataset / "statistics.json")
        samples = read_manifest(run_dir.splits) if run_dir.splits.exists() else []
        num_epochs = 0
        if run_dir.metrics.exists():
            with run_dir.metrics.open(encoding="utf-8", newline="") as file:
                num_epochs = sum(1 for _ in csv.DictReader(file))
        return cls(
            info=_read(run_dir.model_info),
            config=config or {},
            versions=_read(run_dir.versions),
            statistics=statistics,
            train_counts=dict(Counter(sample.label for sample in samples if sample.split == TRAIN)),
            data_checks=tuple(statistics.get("checks", ())),
            num_epochs=num_epochs,
        )

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

    @property
    def command(self) -> str:
        """What trains the run again; empty where its configuration is not known."""
        return train_command(self.config) if self.config else ""


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
