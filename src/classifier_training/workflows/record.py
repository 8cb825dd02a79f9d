"""What a run writes down before it starts: configuration, versions, splits."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.core.run_dir import write_json, write_text
from classifier_training.core.runtime import versions
from classifier_training.data.splits import write_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult
    from classifier_training.data.index import SampleIndex
    from classifier_training.evaluation.results import Evaluation

SECRET_KEY = re.compile(r"(?:^|_)(?:password|passwd|secret|token|api_?key|credentials?)$", re.IGNORECASE)
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
"""The user:password@ of an address."""


def record_inputs(run_dir: RunDir, config: Mapping[str, Any], index: SampleIndex) -> None:
    """Write config.yaml, versions.json and, unless the run goes on with the splits it has, splits.csv.

    Args:
        run_dir: where to.
        config: the run's configuration, made `plain`.
        index: every sample with its split.
    """
    write_text(run_dir.config, config_text(config))
    write_json(run_dir.versions, versions())
    if not run_dir.splits.exists():
        write_manifest(run_dir.splits, index)


def config_text(config: Mapping[str, Any]) -> str:
    """Return what config.yaml holds."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def record_result(run_dir: RunDir, scored: SplitResult, best_epoch: int, evaluation: Evaluation) -> None:
    """Write result.json, by which a run is known to have come to its end.

    Its metrics are the network's own, as in metrics.csv; calibrated_loss is that of the probabilities of predict.
    """
    overall = evaluation.measures.overall
    calibrated = {name: overall[name].value for name in overall if name == "calibrated_loss"}
    found = {"split": scored.split, "best_epoch": best_epoch, "metrics": {**scored.metrics, **calibrated}}
    write_json(run_dir.result, found)


def plain(value: Any, key: str = "") -> Any:
    """Turn a configuration into values that YAML and JSON have, without secrets."""
    if isinstance(value, dict):
        return {str(name): plain(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, key) for item in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return "***" if SECRET_KEY.search(key) else CREDENTIALS.sub("***@", value)
    return value
