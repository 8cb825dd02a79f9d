"""The plots of an evaluation, painted in the background."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.figures.grid import SampleGridFigure, Tile
from classifier_training.evaluation.figures.predictions import (
    ClassScoresFigure,
    ConfusedPair,
    ConfusedPairsFigure,
    ConfusionMatrixFigure,
    ReliabilityFigure,
)
from classifier_training.evaluation.mistakes import SortedPredictions, image_paths, most_confused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.drawing import Drawer, Figure
    from classifier_training.evaluation.results import Evaluation

NUM_TILES, NUM_PAIRS, NUM_EXAMPLES = 24, 8, 6


def draw_results(
    folder: Path,
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    evaluation: Evaluation,
    drawer: Drawer,
) -> None:
    """Submit the plots of an evaluation to the drawer: PNG files in the folder.

    confusion_matrix, confusion_matrix_normalized, class_scores, reliability; roc_curves and precision_recall_curves
    where some class has images and some have not; confused_pairs and worst_mistakes where a prediction is wrong;
    unsure_predictions where one is correct.

    Args:
        folder: where to.
        result: the predictions, as they are given to users.
        table: the samples of the split.
        class_names: [K].
        evaluation: metrics of the predictions.
        drawer: paints.
    """
    measures = evaluation.measures
    confidences = {"as given": result.confidences}
    if result.temperature not in (None, 1.0):
        before = replace(result, temperature=None).confidences
        confidences = {"before calibration": before, "after calibration": result.confidences}
    names, predictions = tuple(class_names), SortedPredictions(result, len(class_names))
    split = result.split.capitalize()

    def draw(name: str, figure: Figure | None) -> None:
        if figure is not None:
            drawer.submit(figure, folder / f"{name}.png")
        else:
            # Of an earlier evaluation in the same folder.
            (folder / f"{name}.png").unlink(missing_ok=True)

    counts = predictions.counts
    balanced = f"{split}: balanced accuracy {measures.overall['balanced_accuracy'].value:.3f}"
    draw("confusion_matrix", ConfusionMatrixFigure(counts=counts, class_names=names, title=balanced))
    draw(
        "confusion_matrix_normalized",
        ConfusionMatrixFigure(
            counts=counts, class_names=names, title=f"{balanced}; % of the true class", normalized=True
        ),
    )
    recall = np.array([[item.value, item.low, item.high] for item in measures.by_class["recall"]])
    draw(
        "class_scores",
        ClassScoresFigure(
            recall=recall.reshape(-1, 3),
            precision=np.array([item.value for item in measures.by_class["precision"]]),
            support=measures.support,
            class_names=names,
            title=f"{split}: the worst classes first",
        ),
    )
    draw("roc_curves", evaluation.curves.figure("roc", names))
    draw("precision_recall_curves", evaluation.curves.figure("precision_recall", names))
    draw(
        "reliability",
        ReliabilityFigure(
            confidences=confidences,
            correct=predictions.predicted == result.targets,
            title=f"{split}: how often predictions of a confidence are correct",
        ),
    )
    worst, unsure = predictions.worst(), predictions.unsure()
    draw("confused_pairs", _pairs(predictions, counts, table, names) if len(worst) else None)
    title = f"{split}: the worst of {len(worst):,} mistakes, the largest loss first"
    draw("worst_mistakes", _grid(worst, predictions, table, names, title) if len(worst) else None)
    title = f"{split}: correct, but unsure"
    draw("unsure_predictions", _grid(unsure, predictions, table, names, title) if len(unsure) else None)


def _pairs(
    predictions: SortedPredictions, counts: NDArray[np.int64], table: SplitTable, names: tuple[str, ...]
) -> ConfusedPairsFigure:
    pairs = tuple(
        ConfusedPair(
            true_label=names[item.true],
            predicted_label=names[item.predicted],
            count=item.count,
            support=item.support,
            paths=tuple(
                image_paths(predictions.cell(item.true, item.predicted)[:NUM_EXAMPLES], predictions.result, table)
            ),
        )
        for item in most_confused(counts, NUM_PAIRS)
    )
    return ConfusedPairsFigure(pairs=pairs, title=f"{predictions.result.split.capitalize()}: the most confused classes")


def _grid(
    rows: NDArray[np.int64], predictions: SortedPredictions, table: SplitTable, names: tuple[str, ...], title: str
) -> SampleGridFigure:
    chosen, result = rows[:NUM_TILES], predictions.result
    tiles = tuple(
        Tile(
            path=path, true_label=names[target], predicted_label=names[predicted], confidence=float(share)
        )
        for path, target, predicted, share in zip(
            image_paths(chosen, result, table), result.targets[chosen], predictions.predicted[chosen],
            predictions.confidences[chosen], strict=True,
        )
    )  # fmt: skip
    return SampleGridFigure(tiles=tiles, title=title)
