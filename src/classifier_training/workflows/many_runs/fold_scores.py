"""What the folds of a cross-validation give together: out-of-fold predictions, their ensemble, and the report."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.display import align
from classifier_training.core.errors import UserError, plural, reason_of
from classifier_training.core.files import remove
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.run_reader import RunReader
from classifier_training.core.types import (
    OUT_OF_FOLD,
    PROBE_EPOCH,
    TEST,
    TRAIN,
    VAL,
    SplitResult,
    SplitTable,
    spread_rows,
)
from classifier_training.data.index import split_table
from classifier_training.data.splitting.manifest import read_folds, read_manifest
from classifier_training.evaluation import report
from classifier_training.evaluation.calibration import TemperatureChoice, expected_calibration_error
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.label_sets import TrueScores
from classifier_training.evaluation.leaderboard import spread
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies
from classifier_training.evaluation.predictions import log_softmax
from classifier_training.evaluation.reject import class_curves
from classifier_training.evaluation.report import Cell, Html, Number
from classifier_training.evaluation.results import COLUMNS, Evaluation, class_table, prediction_rows
from classifier_training.evaluation.verdict import Targets
from classifier_training.export.bundle import BundleInfo, Calibration, write_info
from classifier_training.export.calibrate import MAX_VALIDATION_IMAGES, MIN_IMAGES
from classifier_training.export.formats.onnx import write_model
from classifier_training.inference.ensemble import Ensemble
from classifier_training.inference.predictor import Predictor
from classifier_training.workflows.evaluating.model_card import write_model_card
from classifier_training.workflows.evaluating.run_model import describe_trained, open_model
from classifier_training.workflows.evaluating.run_page import write_run_page
from classifier_training.workflows.evaluating.samples import own_source, tabulate, unknown_labels
from classifier_training.workflows.evaluating.scores import score_table, write_scores
from classifier_training.workflows.serving.ensembles import OpenedEnsemble
from classifier_training.workflows.training.end import Failures
from classifier_training.workflows.training.screen import folder_words, majority_words, next_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.samples import Sample
    from classifier_training.workflows.evaluating.run_model import RunModel
    from classifier_training.workflows.training.start import Begun

log = logging.getLogger(__name__)

SCHEMA = 1

SHOWN = ("balanced_accuracy", "acc_top1", "macro_f1")
"""Metrics of the folds on the screen."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A finished fold.

    Args:
        number: of the fold, from 0.
        opened: its model.
        out_of_fold: its predictions for the images that it was not trained on, with calibrated logits.
        metrics: of these, by name.
        test: its metrics on the test split; empty where there is none.
    """

    number: int
    opened: RunModel
    out_of_fold: SplitResult
    metrics: Mapping[str, float]
    test: Mapping[str, float] = field(default_factory=dict)

    @property
    def predictor(self) -> Predictor:
        """Its model, which predicts."""
        return self.opened.predictor


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """A finished cross-validation.

    Args:
        run_dir: with the runs of the folds in it.
        class_names: [K].
        folds: in their order.
        out_of_fold: predictions for the training images, each by the fold that it was left out of.
        table: these images.
        evaluation: of the out-of-fold predictions.
        test: of the ensemble's predictions for the test split; None where there is none.
        train_counts: training images of each class, int64 [K].
        monitor: metric that chose the weights of each fold.
        failures: what could not be done, and why.
        note: why the ensemble has no model.onnx; empty where it has one.
    """

    run_dir: RunDir
    class_names: tuple[str, ...]
    folds: Sequence[Fold]
    out_of_fold: SplitResult
    table: SplitTable
    evaluation: Evaluation
    test: Evaluation | None
    train_counts: NDArray[np.int64]
    monitor: str
    failures: Mapping[str, str]
    note: str = ""

    @property
    def exit_code(self) -> int:
        """0, or 1 where something failed after training."""
        return int(bool(self.failures))

    def __str__(self) -> str:
        monitor = self.monitor.partition("/")[2]
        wrong = int((self.out_of_fold.predicted != self.out_of_fold.targets).sum())
        errors = self.run_dir.out_of_fold_evaluation if self.test else self.run_dir.evaluation
        lines = [
            "",
            *self._fold_table(monitor),
            "",
            self.evaluation.words(monitor, self.out_of_fold.metrics),
            majority_words(self.class_names, self.train_counts, self.evaluation.measures),
            *([f"ensemble of {len(self.folds)} folds, {self.test.words(monitor)}"] if self.test else []),
            "",
            *class_table(self.evaluation.measures, self.class_names),
            "",
            f"{plural(wrong, 'mistake')} of {len(self.table):,}, all in {errors / self.run_dir.errors.name}",
            "",
            *(f"FAILED: {name}: {reason}" for name, reason in self.failures.items()),
            *([f"no model.onnx of the ensemble: {self.note}; predict averages the folds one by one"] * bool(self.note)),
            *folder_words(self.run_dir),
            *next_words(self.run_dir, self.table.paths[0]),
        ]
        return "\n".join(lines)

    def _fold_table(self, monitor: str) -> list[str]:
        """One line a fold, and one with mean and standard deviation."""
        names = list(dict.fromkeys([monitor, *SHOWN]))
        tested = [monitor] if self.test else []
        columns = [("metrics", name) for name in names] + [("test", name) for name in tested]
        rows = [
            (str(fold.number), f"{len(fold.out_of_fold.targets):,}",
             *(_cell(getattr(fold, part), name) for part, name in columns))
            for fold in self.folds
        ]  # fmt: skip
        last = [spread_words([getattr(fold, part) for fold in self.folds], name) for part, name in columns]
        header = ("fold", "images", *names, *(f"test/{name}" for name in tested))
        return align(header, [*rows, ("mean", "", *last)], right=frozenset(header[1:]))


def _cell(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name]:.4f}" if name in metrics else "-"


def spread_words(metrics: Sequence[Mapping[str, float]], name: str) -> str:
    """Return the mean and the standard deviation of a metric over folds."""
    known = [one[name] for one in metrics if name in one]
    if not known:
        return "-"
    found = spread(known)
    return f"{found.mean:.4f} ± {found.deviation:.4f}" if found.deviation is not None else f"{found.mean:.4f}"


def score_folds(run_dir: RunDir, begun: Begun, *, root: Path | None = None) -> CrossValidation:
    """Predict the images of each fold with its model, average the models, and write what they give together.

    Args:
        run_dir: the cross-validation, whose folds are finished.
        begun: its settings, clock and drawer.
        root: folder that the paths of the images begin from; read from the data when left out.

    Raises:
        UserError: when an image or a file of a fold cannot be read.
    """
    failures, skips = Failures(), begun.settings.data.on_error == "skip"
    samples, numbers = read_manifest(run_dir.splits), read_folds(run_dir.splits)
    root = own_source(run_dir).read().root if root is None else root
    opened = [open_model(str(fold.path)) for fold in run_dir.fold_runs]
    # Before anything is scored: folds of other classes cannot be put together.
    predictor: Predictor = Ensemble([one.predictor for one in opened], path=run_dir.path)
    names = predictor.class_names
    held = [(sample, fold) for sample, fold in zip(samples, numbers, strict=True) if fold >= 0]
    table = split_table(OUT_OF_FOLD, root, [sample for sample, _ in held], names)
    places = np.array([fold for _, fold in held], dtype=np.int64)
    log.info("predicting %s, each with the fold that it was left out of", plural(len(table), "image"))
    monitor = str(begun.config["monitor"]).partition("/")[2]
    folds = [_fold(number, one, table, places, skips=skips, monitor=monitor) for number, one in enumerate(opened)]
    result = _joined(folds, names, monitor=monitor)
    write_csv(run_dir.out_of_fold, *_out_of_fold_rows(result, table, names, places))
    scores = _Scores(begun, names, samples, root, failures)
    has_test = any(sample.split == TEST for sample in samples)
    folder = run_dir.out_of_fold_evaluation if has_test else run_dir.evaluation
    calibration = _calibration(result, table, names)
    # The thresholds come from these images, so that they are judged on the test split alone.
    judged = None if calibration is None else replace(calibration, curves={}, scores=None)
    evaluation = scores.write(folder, result, table, calibration=judged, source="the folds")
    note = _write_model(run_dir, opened, _info(run_dir, folds, calibration, begun.config), table, failures)
    test = None
    if has_test:
        if not note:
            predictor = Predictor(run_dir.path)
        tested = tabulate(samples, root, TEST, names)
        log.info("scoring the ensemble on %s", plural(len(tested), "test image"))
        scored = score_table(predictor, tested, skips=skips)
        test = scores.write(run_dir.evaluation, scored, tested, calibration=calibration, source=run_dir.onnx.name)
    begun.drawer.wait()
    failures.found |= {
        path.relative_to(run_dir.path).as_posix(): reason for path, reason in begun.drawer.failures.items()
    }
    found = CrossValidation(
        run_dir=run_dir, class_names=names, folds=folds, out_of_fold=result, table=table, evaluation=evaluation,
        test=test, train_counts=scores.train_counts, monitor=str(begun.config["monitor"]), failures=failures.found,
        note=note,
    )  # fmt: skip
    write_json(run_dir.cross_validation, _to_dict(found, samples))
    with failures.keep(run_dir.report.name):
        write_run_page(
            run_dir.report, run_dir, folder, result, table, names, evaluation,
            temperature=None if calibration is None else calibration.temperature,
            failures=dict(failures.found), more=[_page(found)],
        )  # fmt: skip
    with failures.keep(run_dir.model_card.name):
        write_model_card(run_dir, test or evaluation)
    _write_result(found, begun)
    return found


def _fold(
    number: int, opened: RunModel, table: SplitTable, places: NDArray[np.int64], *, skips: bool, monitor: str
) -> Fold:
    rows = np.flatnonzero(places == number)
    paths, groups = ([values[row] for row in rows.tolist()] for values in (table.paths, table.groups))
    own = SplitTable(table.name, paths, table.targets[rows], groups)
    raw = score_table(opened.predictor, own, skips=skips)
    logits = np.asarray(log_softmax(raw.logits / opened.predictor.temperature), dtype=np.float32)
    losses = cross_entropies(logits, raw.targets)
    result = RunReader(opened.run_dir).result
    return Fold(
        number=number,
        opened=opened,
        out_of_fold=replace(raw, logits=logits, indices=rows[raw.indices], losses=losses),
        metrics=classification_metrics(logits, raw.targets, losses, opened.predictor.class_names, also=[monitor]),
        test=result["metrics"] if result["split"] == TEST else {},
    )


def _joined(folds: Sequence[Fold], class_names: Sequence[str], *, monitor: str) -> SplitResult:
    """The predictions of all folds, in the order of the table."""
    parts = [fold.out_of_fold for fold in folds]
    order = np.argsort(np.concatenate([part.indices for part in parts]), kind="stable")
    logits, targets, indices, losses = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("logits", "targets", "indices", "losses")
    )
    metrics = classification_metrics(logits, targets, losses, class_names, also=[monitor])
    return SplitResult(OUT_OF_FOLD, logits, targets, indices, losses, metrics)


def _out_of_fold_rows(
    result: SplitResult, table: SplitTable, class_names: Sequence[str], places: NDArray[np.int64]
) -> tuple[tuple[str, ...], Iterator[tuple[object, ...]]]:
    """Header and rows of out_of_fold.csv: those of predictions.csv with the fold before the probabilities."""
    header, rows = prediction_rows(result, table, class_names, np.arange(len(result.targets)))
    number = len(COLUMNS)
    folds = places[result.indices].tolist()
    return (
        (*header[:number], "fold", *header[number:]),
        ((*row[:number], fold, *row[number:]) for row, fold in zip(rows, folds, strict=True)),
    )


class _Scores:
    """Writes evaluations of a cross-validation.

    Args:
        begun: its settings and drawer.
        class_names: [K].
        samples: of its splits.csv.
        root: folder that their paths begin from.
        failures: takes what goes wrong.
    """

    def __init__(
        self,
        begun: Begun,
        class_names: Sequence[str],
        samples: Sequence[Sample],
        root: Path,
        failures: Failures,
    ) -> None:
        self._begun, self._class_names, self._samples, self._failures = begun, class_names, samples, failures
        self.train_counts = tabulate(samples, root, TRAIN, class_names).class_counts(len(class_names))

    def write(
        self, folder: Path, result: SplitResult, table: SplitTable, *, calibration: Calibration | None, source: str
    ) -> Evaluation:
        """Score predictions and write the files of their evaluation."""
        return write_scores(
            folder,
            result,
            table,
            self._class_names,
            self._begun.drawer,
            calibration=calibration,
            source=source,
            unknown_labels=unknown_labels(self._samples, result.split, self._class_names),
            targets=Targets.of(self._begun.config),
            train_counts=dict(zip(self._class_names, self.train_counts.tolist(), strict=True)),
            attempt=self._failures.keep,
        )


def _calibration(result: SplitResult, table: SplitTable, class_names: Sequence[str]) -> Calibration | None:
    """Return where thresholds and label sets of the ensemble come from: the out-of-fold predictions.

    Each is one fold's, for an image that it has not seen; of the ensemble there is no such prediction for a training
    image. None where there are too few.
    """
    if len(result.targets) < MIN_IMAGES:
        return None
    rows = spread_rows(len(result.targets), MAX_VALIDATION_IMAGES)
    shares, targets = result.probabilities_of(rows), result.targets[rows]
    groups = Groups.of([table.groups[row] for row in result.indices[rows]])
    return Calibration(
        choice=TemperatureChoice(
            temperature=1.0,
            fitted_temperature=1.0,
            reason="each fold has a temperature of its own",
            num_images=len(rows),
            ece_before=expected_calibration_error(shares, targets),
        ),
        curves=class_curves(shares, targets, class_names, groups),
        scores=TrueScores.of(shares, targets, groups),
        novelty=None,
        split=OUT_OF_FOLD,
    )


def _info(
    run_dir: RunDir, folds: Sequence[Fold], calibration: Calibration | None, config: Mapping[str, Any]
) -> BundleInfo:
    """Say what the ensemble is."""
    infos = [describe_trained(fold.opened.run_dir)[0] for fold in folds]
    best = [info.training_info["best_metric"] for info in infos]
    score = float(np.mean([one["value"] for one in best]))
    return replace(
        infos[0],
        architecture=f"{infos[0].architecture}, {len(folds)} folds",
        training_info={
            "best_metric": {"name": best[0]["name"], "value": score},
            "config": dict(config),
            "weights": infos[0].training_info.get("weights"),
            "folds": [fold.opened.run_dir.path.relative_to(run_dir.path).as_posix() for fold in folds],
        },
        files={},
        withheld={},
        quantization="none",
        calibration=calibration,
    )


def _write_model(
    run_dir: RunDir, opened: Sequence[RunModel], info: BundleInfo, table: SplitTable, failures: Failures
) -> str:
    """Write model.onnx of the ensemble, and what describes it; returns why there is none, or an empty text."""
    note = ""
    try:
        ensemble = OpenedEnsemble([one.predictor for one in opened], info, run_dir)
        with tempfile.TemporaryDirectory() as scratch:
            file = write_model(ensemble.job(run_dir, {VAL: table}, Path(scratch)), opset=None)
        log.info("%s", file)
        info = replace(info, files={file.path.name: file.describe()})
    except UserError as error:
        note = reason_of(error)
        remove(run_dir.onnx)
        info = replace(info, withheld={run_dir.onnx.name: note})
    with failures.keep(run_dir.model_info.name):
        write_info(run_dir, info)
    return note


def _to_dict(found: CrossValidation, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what cross_validation.json holds.

    - schema: 1. num_folds. monitor. note: why there is no model.onnx of the ensemble; empty where there is one.
    - metrics: {split: {name: {mean, sd, per_fold, value, low, high, method}}}. Of out-of-fold, value is the metric of
      all out-of-fold predictions together, with its 95 % interval over images, or over groups; of test it is the
      ensemble's. sd is the standard deviation over the folds; null where a fold lacks the metric.
    - folds: [{fold, run, num_images, temperature, best_epoch, ended}].
    - left_out: {every_fold_trains_on: images of classes too small to be left out, unreadable: [path]}.
    """
    splits = {OUT_OF_FOLD: (found.evaluation, [fold.metrics for fold in found.folds])}
    if found.test is not None:
        splits[TEST] = (found.test, [fold.test for fold in found.folds])
    trained = sum(sample.split == TRAIN for sample in samples)
    return {
        "schema": SCHEMA,
        "num_folds": len(found.folds),
        "monitor": found.monitor,
        "note": found.note,
        "metrics": {split: _metrics(evaluation, folds) for split, (evaluation, folds) in splits.items()},
        "folds": [
            {
                "fold": fold.number,
                "run": fold.opened.run_dir.path.relative_to(found.run_dir.path).as_posix(),
                "num_images": len(fold.out_of_fold.targets),
                "temperature": fold.predictor.temperature,
                **{name: RunReader(fold.opened.run_dir).result.get(name) for name in ("best_epoch", "ended")},
            }
            for fold in found.folds
        ],
        "left_out": {
            "every_fold_trains_on": trained - len(found.table),
            "unreadable": list(found.evaluation.unreadable),
        },
    }


def _metrics(evaluation: Evaluation, folds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    overall = evaluation.measures.overall
    metrics: dict[str, Any] = {}
    for name in dict.fromkeys([*overall, *(name for fold in folds for name in fold)]):
        values = [fold[name] if name in fold and np.isfinite(fold[name]) else None for fold in folds]
        known = [value for value in values if value is not None]
        spread_of = spread(known) if known else None
        metrics[name] = {
            "mean": None if spread_of is None else spread_of.mean,
            "sd": None if spread_of is None else spread_of.deviation,
            "per_fold": values,
            **(overall[name].to_dict() if name in overall else {}),
        }
    return metrics


def _page(found: CrossValidation) -> Html:
    """The section on the folds."""
    names = [name for name in SHOWN if name in found.folds[0].metrics]
    columns = ("fold", "images", *names, *(f"test {name}" for name in names if found.test), "best epoch", "run")
    rows: list[tuple[Cell, ...]] = []
    for fold in found.folds:
        scores = [fold.metrics.get(name) for name in names] + [fold.test.get(name) for name in names if found.test]
        epoch = RunReader(fold.opened.run_dir).result.get("best_epoch")
        cells = [Number(score, "" if score is None else f"{score:.4f}") for score in scores]
        best = "linear probe" if epoch == PROBE_EPOCH else "" if epoch is None else str(epoch + 1)
        where = fold.opened.run_dir.path.relative_to(found.run_dir.path).as_posix()
        rows.append((str(fold.number), len(fold.out_of_fold.targets), *cells, best, where))
    summary = [
        (
            f"{name} over the folds, mean ± standard deviation",
            spread_words([fold.metrics for fold in found.folds], name),
        )
        for name in names
    ]
    if found.test is not None:
        for name in names:
            folds = spread_words([fold.test for fold in found.folds], name)
            summary.append((f"test {name}", f"ensemble {found.test.measures.overall[name]}, folds {folds}"))
    words = (
        "Each training image is predicted by the fold that was trained without it. The metrics of this page are of all "
        "these predictions together, with intervals over images or groups. The standard deviation over the folds is "
        "beside them: the folds share most of their training images, so it is no standard error."
    )
    return report.section("Folds", report.paragraph(words), report.facts(summary), report.table(columns, rows))


def _write_result(found: CrossValidation, begun: Begun) -> None:
    """Write result.json, by which the cross-validation is finished."""
    scored = found.test or found.evaluation
    metrics = {name: item.value for name, item in scored.measures.overall.items() if np.isfinite(item.value)}
    write_json(
        found.run_dir.result,
        {
            "split": scored.split,
            "best_epoch": None,
            "ended": f"all {len(found.folds)} folds are finished",
            "verdict": None if scored.verdict is None else scored.verdict.to_dict(),
            "metrics": metrics,
            "failures": dict(found.failures),
            "seconds": begun.clock.so_far(),
        },
    )
