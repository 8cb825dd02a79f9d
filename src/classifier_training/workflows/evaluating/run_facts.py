"""What a run folder says about its run, for the report and the model card. Needs no torch."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.core.register import TYPE_KEY, VERB, entry
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import Trait
from classifier_training.core.types import TRAIN, Weights
from classifier_training.data.splitting.splits import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from classifier_training.core.register import Option
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


OF_ONE_RUN = frozenset({Trait.PLACE, Trait.START, Trait.PRESET})
"""What settings are that say where a run lies and how it came by the others: one like it need not share them."""


def train_command(config: Mapping[str, Any]) -> str:
    """Return a command to be pasted; every setting that is not the plain default stands in it.

    The recipe that gave some of them is not named: a later version's may be another.

    Args:
        config: content of config.yaml.
    """
    words = ["recipe=none"]
    for name, option in entry(VERB, "train").options.items():
        if name in config and not option.traits & OF_ONE_RUN:
            words += _words(name, option, config[name])
    return " ".join([command("train"), *words])


def _words(name: str, option: Option, value: Any) -> Iterator[str]:
    choice = option.choice
    if choice is None or not (value is None or isinstance(value, dict)):
        default = choice.default if choice else option.default
        if value != default:
            yield setting(name, _plain(value))
    elif choice.many:
        parts = value or {}
        if list(parts) != [choice.default] or choice.default is None:
            chosen = [part for part, node in parts.items() if node is not None]
            # The names are the register's own, so they need no quotes.
            if chosen or choice.default is not None:
                yield f"'{name}=[{','.join(chosen)}]'"
        for part, node in parts.items():
            if node is not None:
                yield from _settings(f"{name}.{part}", part if choice.group is None else choice.group, name, node)
    elif value is None:
        if choice.default is not None:
            yield f"{name}=null"
    else:
        if choice.group is None and value[TYPE_KEY] != choice.default:
            yield setting(name, value[TYPE_KEY])
        yield from _settings(name, value[TYPE_KEY], choice.group or name, value)


def _settings(prefix: str, component: str, group: str, node: Mapping[str, Any]) -> Iterator[str]:
    options = entry(group, component).options
    for name, value in node.items():
        if name != TYPE_KEY and value != options[name].default:
            yield setting(f"{prefix}.{name}", _plain(value))


def _plain(value: Any) -> Any:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value
