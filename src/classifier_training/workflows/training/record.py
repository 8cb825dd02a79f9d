"""What a run writes down before it starts: configuration, versions, splits."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import yaml

from classifier_training.core.run_dir import write_json, write_text
from classifier_training.core.runtime import versions
from classifier_training.core.secrets import mask
from classifier_training.data.splitting.splits import write_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult
    from classifier_training.data.index import SampleIndex
    from classifier_training.evaluation.results import Evaluation


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


def record_result(
    run_dir: RunDir,
    scored: SplitResult,
    best_epoch: int,
    evaluation: Evaluation,
    failures: Mapping[str, str],
    seconds: Mapping[str, float],
) -> None:
    """Write result.json, by which a run is known to have come to its end.

    Its metrics are the network's own, as in metrics.csv; calibrated_loss is that of the probabilities of predict.

    Args:
        run_dir: where to.
        scored: answers of the held-out images.
        best_epoch: where the weights are from.
        evaluation: of the answers.
        failures: what could not be done after training, and why.
        seconds: that the parts of the command took which finished the run, and in total.
    """
    overall = evaluation.measures.overall
    calibrated = {name: overall[name].value for name in overall if name == "calibrated_loss"}
    write_json(
        run_dir.result,
        {
            "split": scored.split,
            "best_epoch": best_epoch,
            "metrics": {**scored.metrics, **calibrated},
            "failures": dict(failures),
            "seconds": dict(seconds),
        },
    )


def plain(value: Any) -> Any:
    """Turn a configuration into values that YAML and JSON have, without secrets."""
    return mask(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.total_seconds() if isinstance(value, timedelta) else value
