"""The files of a study: trials.csv, tuning.json and its plots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.training import (
    ImportancesFigure,
    ParallelFigure,
    SearchHistoryFigure,
)
from classifier_training.workflows.many_runs.tuning_study import (
    EPOCHS,
    ERROR,
    SECONDS,
    counted,
    import_optuna,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from optuna import Study
    from optuna.trial import FrozenTrial

    from classifier_training.conf.searches import Parameter

MIN_TRIALS = 4
"""Fewest finished trials for importances."""


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """Summary of a study.

    Args:
        best: the finished trial with the best score.
        front: the Pareto front of the finished trials.
        num_trials: by state, in lower case.
        num_epochs: that all trials trained.
        num_epochs_whole: that they would have trained without pruning.
        importances: share of each setting in the variance of the scores.
    """

    best: FrozenTrial
    front: Sequence[FrozenTrial]
    num_trials: Mapping[str, int]
    num_epochs: int
    num_epochs_whole: int
    importances: Mapping[str, float]

    @property
    def saved(self) -> float:
        """Share of the epochs that pruning saved."""
        return 1 - self.num_epochs / self.num_epochs_whole if self.num_epochs_whole else 0.0


def summarize(study: Study, *, max_epochs: int) -> StudySummary | None:
    """Summarize a study; None while it has no finished trial."""
    states = import_optuna().trial.TrialState
    trials = counted(study)
    finished = [trial for trial in trials if trial.state == states.COMPLETE]
    if not finished:
        return None
    is_high_good = study.directions[0].name == "MAXIMIZE"
    best = max(finished, key=lambda trial: trial.values[0] if is_high_good else -trial.values[0])
    epochs = [(int(trial.user_attrs.get(EPOCHS, 0)), trial.state) for trial in trials]
    return StudySummary(
        best=best,
        front=sorted(study.best_trials, key=lambda trial: trial.number),
        num_trials={
            state.name.lower(): number for state in states if (number := sum(trial.state == state for trial in trials))
        },
        num_epochs=sum(number for number, _ in epochs),
        num_epochs_whole=sum(max_epochs if state == states.PRUNED else number for number, state in epochs),
        importances=_importances(study, len(finished)),
    )


def write_study(folder: Path, study: Study, summary: StudySummary, space: Mapping[str, Parameter]) -> None:
    """Write trials.csv, tuning.json and the plots.

    tuning.json holds schema (1), best {number, values, parameters}, front (such), trials {state: number}, epochs
    {trained, without_pruning}, importances {setting: share}.

    Args:
        folder: where to.
        study: with its trials.
        summary: of it.
        space: what was searched.
    """
    trials = counted(study)
    objectives = ["score", "latency_ms"][: len(study.directions)]
    write_csv(
        folder / "trials.csv",
        ("number", "state", *objectives, "epochs", "seconds", *space, "error"),
        (_row(trial, objectives, space) for trial in trials),
    )
    write_json(
        folder / "tuning.json",
        {
            "schema": 1,
            "best": _described(summary.best),
            "front": [_described(trial) for trial in summary.front],
            "trials": dict(summary.num_trials),
            "epochs": {"trained": summary.num_epochs, "without_pruning": summary.num_epochs_whole},
            "importances": dict(summary.importances),
        },
    )
    states = import_optuna().trial.TrialState
    finished = [trial for trial in trials if trial.state == states.COMPLETE]
    pruned = [trial for trial in trials if trial.state == states.PRUNED and trial.intermediate_values]
    with Drawer() as drawer:
        drawer.submit(
            SearchHistoryFigure(
                numbers=[trial.number for trial in finished],
                scores=[trial.values[0] for trial in finished],
                pruned_numbers=[trial.number for trial in pruned],
                pruned_scores=[trial.intermediate_values[max(trial.intermediate_values)] for trial in pruned],
                is_high_good=study.directions[0].name == "MAXIMIZE",
            ),
            folder / "history.png",
        )
        if summary.importances:
            drawer.submit(ImportancesFigure(shares=dict(summary.importances)), folder / "importances.png")
        drawer.submit(
            ParallelFigure(
                axes={
                    key: None if parameter.choices is not None else parameter.log for key, parameter in space.items()
                },
                values=[[trial.params[key] for key in space] for trial in finished],
                scores=[trial.values[0] for trial in finished],
            ),
            folder / "parallel_coordinates.png",
        )


def _importances(study: Study, num_finished: int) -> dict[str, float]:
    if num_finished < MIN_TRIALS:
        return {}
    target = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
    found = import_optuna().importance.get_param_importances(study, target=target)
    return {key: float(value) for key, value in found.items()}


def _row(trial: FrozenTrial, objectives: Sequence[str], space: Mapping[str, Parameter]) -> list[Any]:
    values = [f"{value:.6g}" for value in trial.values] if trial.values else [""] * len(objectives)
    seconds = trial.user_attrs.get(SECONDS)
    return [
        trial.number,
        trial.state.name.lower(),
        *values,
        trial.user_attrs.get(EPOCHS, ""),
        "" if seconds is None else f"{seconds:.1f}",
        *(trial.params.get(key, "") for key in space),
        trial.user_attrs.get(ERROR, ""),
    ]


def _described(trial: FrozenTrial) -> dict[str, Any]:
    return {"number": trial.number, "values": list(trial.values or ()), "parameters": dict(trial.params)}
