"""The figures of an evaluation, drawn in the background, and the images that pages show."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from classifier_training.core.images import UnreadableImageError, read_preview
from classifier_training.evaluation.figures.curves import ranking_curves
from classifier_training.evaluation.figures.grid import SampleGridFigure, Tile
from classifier_training.evaluation.figures.predictions import (
    ClassScoresFigure,
    ConfusedPair,
    ConfusedPairsFigure,
    ConfusionMatrixFigure,
    ReliabilityFigure,
)
from classifier_training.evaluation.mistakes import Answers, most_confused
from classifier_training.evaluation.report import Thumbnail

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.drawing import Drawer, Figure
    from classifier_training.evaluation.measures import Measures

SIDE = 112
STRIP_SIDE, STRIP_GAP = 96, 4


def thumbnail(path: Path, title: str, words: str = "") -> Thumbnail:
    """Return a file's image for a page, or only its words when it cannot be read."""
    image = _small(path, SIDE)
    if image is None:
        return Thumbnail("", title, words)
    return Thumbnail(_uri(image), title, words, enlarged=max(image.size) < SIDE // 2)


def strip_uri(paths: Sequence[Path]) -> str:
    """Return files' images in a row, as one data URI; what cannot be read leaves its place grey."""
    width = len(paths) * (STRIP_SIDE + STRIP_GAP) - STRIP_GAP
    row = Image.new("RGB", (max(1, width), STRIP_SIDE), (235, 235, 235))
    for number, path in enumerate(paths):
        image = _small(path, STRIP_SIDE)
        if image is not None:
            scale = STRIP_SIDE / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            fitted = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
            left = number * (STRIP_SIDE + STRIP_GAP) + (STRIP_SIDE - size[0]) // 2
            row.paste(fitted, (left, (STRIP_SIDE - size[1]) // 2))
    return _uri(row)


def plot_uri(path: Path) -> str:
    """Return a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _small(path: Path, side: int) -> Image.Image | None:
    try:
        image = read_preview(path, min_side=side).image
    except UnreadableImageError:
        return None
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return image


def _uri(image: Image.Image) -> str:
    content = io.BytesIO()
    # Of the smallest, JPEG would show its own blocks.
    kind = "PNG" if max(image.size) < SIDE // 2 else "JPEG"
    image.save(content, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


NUM_TILES, NUM_PAIRS, NUM_EXAMPLES = 24, 8, 6


def draw_figures(
    folder: Path,
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    drawer: Drawer,
    *,
    measures: Measures,
    confidences: dict[str, NDArray[np.floating]],
) -> None:
    """Hand the figures of an evaluation to the drawer: PNG files in the folder.

    confusion_matrix, confusion_matrix_normalised, class_scores, reliability; roc_curves and precision_recall_curves
    where some class has images and some have not; confused_pairs and worst_mistakes where an answer is wrong;
    unsure_answers where one is right.

    Args:
        folder: where to.
        result: the answers, as they are given to users.
        table: the samples of the split.
        class_names: [K].
        drawer: paints.
        measures: figures of the answers.
        confidences: of the answers [N], by what they are: before and after calibration, or as they are.
    """
    names, answers = tuple(class_names), Answers(result, len(class_names))
    split = result.split.capitalize()

    def draw(name: str, figure: Figure | None) -> None:
        if figure is not None:
            drawer.submit(figure, folder / f"{name}.png")
        else:
            # Of an earlier evaluation in the same folder.
            (folder / f"{name}.png").unlink(missing_ok=True)

    counts = answers.counts
    balanced = f"{split}: balanced accuracy {measures.overall['balanced_accuracy'].value:.3f}"
    draw("confusion_matrix", ConfusionMatrixFigure(counts=counts, class_names=names, title=balanced))
    draw(
        "confusion_matrix_normalised",
        ConfusionMatrixFigure(
            counts=counts, class_names=names, title=f"{balanced}; % of the true class", normalised=True
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
    for kind, name in (("roc", "roc_curves"), ("precision_recall", "precision_recall_curves")):
        draw(name, ranking_curves(kind, result.probabilities, result.targets, names))  # type: ignore[arg-type]
    draw(
        "reliability",
        ReliabilityFigure(
            confidences=confidences,
            correct=answers.predicted == result.targets,
            title=f"{split}: how often answers of a confidence are right",
        ),
    )
    worst, unsure = answers.worst(), answers.unsure()
    draw("confused_pairs", _pairs(answers, counts, table, names) if len(worst) else None)
    title = f"{split}: the worst of {len(worst):,} mistakes, the largest loss first"
    draw("worst_mistakes", _grid(worst, answers, table, names, title) if len(worst) else None)
    title = f"{split}: right, but unsure"
    draw("unsure_answers", _grid(unsure, answers, table, names, title) if len(unsure) else None)


def _pairs(
    answers: Answers, counts: NDArray[np.int64], table: SplitTable, names: tuple[str, ...]
) -> ConfusedPairsFigure:
    cells = answers.cells()
    pairs = tuple(
        ConfusedPair(
            true_label=names[item.true],
            answer=names[item.answer],
            count=item.count,
            support=item.support,
            paths=tuple(image_paths(cells[item.true, item.answer][:NUM_EXAMPLES], answers.result, table)),
        )
        for item in most_confused(counts)[:NUM_PAIRS]
    )
    return ConfusedPairsFigure(pairs=pairs, title=f"{answers.result.split.capitalize()}: the most confused classes")


def _grid(
    rows: NDArray[np.int64], answers: Answers, table: SplitTable, names: tuple[str, ...], title: str
) -> SampleGridFigure:
    chosen, result = rows[:NUM_TILES], answers.result
    tiles = tuple(
        Tile(
            path=path, true_label=names[target], predicted_label=names[answer], confidence=float(share)
        )
        for path, target, answer, share in zip(
            image_paths(chosen, result, table), result.targets[chosen], answers.predicted[chosen],
            answers.confidences[chosen], strict=True,
        )
    )  # fmt: skip
    return SampleGridFigure(tiles=tiles, title=title)


def image_paths(rows: Iterable[int], result: SplitResult, table: SplitTable) -> list[str]:
    """Paths of the images of some answers."""
    return [table.paths[result.indices[row]] for row in rows]
