"""Finished runs: what each gave, which of them differ in the seed alone, and what trains one again."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.conf.overrides import leaf_keys, value_at
from classifier_training.conf.recipes import data_label, model_label
from classifier_training.core.errors import UserError
from classifier_training.core.labels import label_indices
from classifier_training.core.register import TYPE_KEY, VERB, entry
from classifier_training.core.run_dir import RunDir
from classifier_training.core.run_reader import read_rows, read_values
from classifier_training.core.runtime import command, setting
from classifier_training.core.settings import Trait
from classifier_training.core.types import TEST
from classifier_training.evaluation.leaderboard import (
    RANKED_BY,
    RunPredictions,
    RunScores,
    macro_roc,
    metric_columns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from classifier_training.core.register import Option

VARYING = frozenset({Trait.SEED, Trait.PLACE, Trait.START})
"""What settings are in which runs of the same kind may differ."""

FOLD = "data.fold"
"""The setting in which the folds of one cross-validation differ."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run.

    Args:
        run_dir: its folder.
        model: name of its model, with the hub's name for it.
        data: name of its data.
        seed: it ran with.
        settings: all others, by dotted key.
        figures: what it is worth and costs.
        failures: what could not be done after its training, and why; withheld files among them.
        split: of the images that it was scored on.
        fold: of a cross-validation that it is alone; None for any other run.
    """

    run_dir: RunDir
    model: str
    data: str
    seed: int
    settings: Mapping[str, Any]
    figures: RunScores
    failures: Mapping[str, str]
    split: str = TEST
    fold: int | None = None


def finished_runs(folder: Path) -> list[RunDir]:
    """Find the finished runs below a folder, the oldest first; a cross-validation is one, and its folds are none."""
    runs = (RunDir(path.parent) for path in sorted(folder.rglob(RunDir.result.relative)))
    return [run for run in runs if not run.is_fold]


def read_finished(run_dir: RunDir) -> Finished:
    """Read a finished run; of a cross-validation the runs of its folds, put together.

    Raises:
        UserError: when a file of it is missing or damaged.
    """
    if run_dir.is_cross_validation:
        try:
            failures = read_values(run_dir.result).get("failures", {})
        except OSError as error:
            raise _damaged(run_dir, error) from error
        folds = [read_finished(fold) for fold in run_dir.fold_runs]
        return replace(
            _together(folds, run_dir), failures={str(name): str(reason) for name, reason in failures.items()}
        )
    train = entry(VERB, "train")
    try:
        values, result = read_values(run_dir.config), read_values(run_dir.result)
        metrics, rows = result["metrics"], read_rows(run_dir.metrics)
        columns = {name: metric.main_column for name, metric in metric_columns().items()}
        figures = RunScores(
            metrics={
                # A run may be older than a metric, but not than the one that it is ranked by.
                name: float(metrics[column])
                for name, column in columns.items()
                if column in metrics or name == RANKED_BY
            },
            train_seconds=sum(float(row["epoch_seconds"]) for row in rows),
            size_mb=run_dir.onnx.stat().st_size / 1e6 if run_dir.onnx.exists() else None,
            memory_mb=max((float(row["peak_memory_mb"]) for row in rows), default=None),
        )
        model, data = _node(values, "model"), _node(values, "data")
        return Finished(
            run_dir=run_dir,
            model=model_label(model),
            data=data_label(data),
            seed=int(values["seed"]),
            settings={
                **{
                    key: value_at(values, key)
                    for key in leaf_keys(values)
                    if not train.traits(key) & VARYING and key != FOLD
                },
                **{
                    name: node[TYPE_KEY] for name, node in values.items() if isinstance(node, dict) and TYPE_KEY in node
                },
            },
            figures=figures,
            failures={str(name): str(reason) for name, reason in result.get("failures", {}).items()},
            split=str(result.get("split", TEST)),
            fold=data.get("fold"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(run_dir, error) from error


def _together(folds: Sequence[Finished], run_dir: RunDir) -> Finished:
    """One cross-validation of the runs of its folds."""
    size_mb = run_dir.onnx.stat().st_size / 1e6 if run_dir.onnx.exists() else None
    figures = RunScores.of_folds([fold.figures for fold in folds], size_mb=size_mb)
    failures = {f"fold {fold.fold}: {name}": why for fold in folds for name, why in fold.failures.items()}
    return replace(folds[0], run_dir=run_dir, figures=figures, failures=failures, fold=None)


def read_run_predictions(run_dir: RunDir) -> RunPredictions:
    """Read the predictions of a run on the images that it was scored on.

    Raises:
        UserError: when the file is missing or damaged.
    """
    try:
        with run_dir.predictions.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            header = next(lines)
            columns = {name: place for place, name in enumerate(header)}
            # Without columns prob_<class>, of very many predictions, there is no curve.
            first = next((at for at, name in enumerate(header) if name.startswith("prob_")), len(header))
            names = [name.removeprefix("prob_") for name in header[first:]]
            image, true, predicted = columns["path"], columns["true"], columns["predicted"]
            group = columns.get("group")
            targets: dict[str, str] = {}
            groups: dict[str, str] = {}
            right: set[str] = set()
            probabilities, labels = [], list[str]()
            for row in lines:
                path = row[image]
                if targets.get(path, row[true]) != row[true]:
                    # An image that has several labels is scored by each of them.
                    path = f"{path}\0{row[true]}"
                targets[path] = row[true]
                groups[path] = "" if group is None else row[group]
                if row[true] == row[predicted]:
                    right.add(path)
                if names:
                    labels.append(row[true])
                    probabilities.append(np.array(row[first:], dtype=np.float32))
        alarms, hits = macro_roc(np.stack(probabilities), label_indices(labels, names)) if labels else ([], [])
    except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
        raise _damaged(run_dir, error) from error
    return RunPredictions(
        targets=targets,
        correct=frozenset(right),
        false_positive_rates=alarms,
        true_positive_rates=hits,
        groups=groups,
    )


def group_runs(runs: Sequence[Finished]) -> dict[tuple[str, str], list[Finished]]:
    """Put the runs together that differ in the seed alone, by model and data.

    Where several have the same model and data, what else they differ in is said with the model. Of two runs with the
    same seed the newer counts. Runs that are single folds of one cross-validation count as one run of their seed.
    """
    by_settings: dict[str, list[Finished]] = {}
    for run in runs:
        by_settings.setdefault(json.dumps(run.settings, sort_keys=True, default=str), []).append(run)
    groups = list(by_settings.values())
    found: dict[tuple[str, str], list[Finished]] = {}
    for group in groups:
        first = group[0]
        likes = [other[0] for other in groups if (other[0].model, other[0].data) == (first.model, first.data)]
        keys = sorted(
            {key for other in likes for key in {*first.settings, *other.settings} if _differs(key, first, other)}
        )
        words = " ".join(f"{key}={first.settings.get(key)}" for key in keys)
        by_seed = {run.seed: run for run in group}
        for seed in by_seed:
            folds = {run.fold: run for run in group if run.seed == seed and run.fold is not None}
            if len(folds) > 1 and by_seed[seed].fold is not None:
                by_seed[seed] = _together([folds[fold] for fold in sorted(folds)], by_seed[seed].run_dir)
        found[f"{first.model} {words}".strip(), first.data] = [by_seed[seed] for seed in sorted(by_seed)]
    return found


def _differs(key: str, one: Finished, other: Finished) -> bool:
    return one.settings.get(key) != other.settings.get(key)


def _node(values: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    node = values[group]
    if not isinstance(node, dict):
        raise TypeError(f"config.yaml has no {group}")
    return node


def _damaged(run_dir: RunDir, error: Exception) -> UserError:
    what = (
        f"{Path(error.filename).name} is missing"
        if isinstance(error, FileNotFoundError) and error.filename
        else (f"{type(error).__name__}: {error}")
    )
    return UserError(
        f"{run_dir.path}: the run folder is damaged ({what})",
        "the files that a finished run has",
        f"restore it from a copy, or delete {run_dir.path} and start again",
    )


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
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower() if isinstance(value, bool) else value
