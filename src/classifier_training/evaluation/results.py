"""The files of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.evaluation.figures.confusion import ConfusionMatrixFigure
from classifier_training.evaluation.metrics import confusion_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.drawing import Drawer


def write_results(
    folder: Path, result: SplitResult, table: SplitTable, class_names: Sequence[str], drawer: Drawer
) -> None:
    """Write classification_report.json, predictions.csv, errors.csv and confusion_matrix.png.

    The report has split, metrics, scikit-learn's figures of each class under classes, and its averages beside them.
    Both tables have the columns path, true, predicted, confidence, loss, group and prob_<class>; errors.csv has the
    wrong answers alone, the most confident first.
    """
    write_json(folder / "classification_report.json", _report(result, class_names))
    header = (
        "path",
        "true",
        "predicted",
        "confidence",
        "loss",
        "group",
        *(f"prob_{name}" for name in class_names),
    )
    everything = np.arange(len(result.targets))
    write_csv(folder / "predictions.csv", header, _rows(result, table, class_names, everything))
    wrong = np.flatnonzero(result.predicted != result.targets)
    surest_first = wrong[np.argsort(-result.probabilities.max(axis=1)[wrong], kind="stable")]
    write_csv(folder / "errors.csv", header, _rows(result, table, class_names, surest_first))
    figure = ConfusionMatrixFigure(
        counts=confusion_counts(result.targets, result.predicted, len(class_names)),
        class_names=tuple(class_names),
        title=f"{result.split.capitalize()}: balanced accuracy {result.metrics['balanced_accuracy']:.3f}",
    )
    drawer.submit(figure, folder / "confusion_matrix.png")


def _report(result: SplitResult, class_names: Sequence[str]) -> dict[str, object]:
    from sklearn.metrics import classification_report

    labels = np.arange(len(class_names))
    # A class may be called accuracy, as one of the averages is.
    numbers = [str(label) for label in labels]
    found = classification_report(
        result.targets, result.predicted, labels=labels, target_names=numbers, output_dict=True, zero_division=0
    )
    classes = {name: found.pop(number) for name, number in zip(class_names, numbers, strict=True)}
    return {"split": result.split, "metrics": dict(result.metrics), "classes": classes, **found}


def _rows(
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    chosen: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> Iterator[tuple[object, ...]]:
    probabilities, predicted = result.probabilities, result.predicted
    for row in chosen:
        index = result.indices[row]
        yield (
            table.paths[index],
            class_names[result.targets[row]],
            class_names[predicted[row]],
            f"{probabilities[row].max():.6f}",
            f"{result.losses[row]:.6f}",
            table.groups[index],
            *(f"{value:.6f}" for value in probabilities[row]),
        )
