"""`evaluate maps=true`: what the network sees in the images, and what its worst mistakes were decided by."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.types import SplitTable, softmax, spread_rows
from classifier_training.evaluation.figures.maps import EmbeddingFigure, OcclusionFigure, OcclusionTile
from classifier_training.evaluation.mistakes import SortedPredictions
from classifier_training.export.examples import iterate_examples
from classifier_training.export.novelty import FEATURES_NAME
from classifier_training.export.session import INPUT_NAME, open_session
from classifier_training.inference.ensemble import Ensemble
from classifier_training.workflows.evaluating.scores import at_temperature

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult
    from classifier_training.evaluation.drawing import Drawer
    from classifier_training.workflows.evaluating.run_model import RunModel

log = logging.getLogger(__name__)

MAX_POINTS = 1000
NUM_OCCLUDED = 12
MAX_SECONDS = 60.0
"""For the occlusion maps: a large network on a small machine gets fewer of them."""

BATCH_SIZE = 32
Run = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
"""Inputs, float32 [B, 3, H, W] -> logits, float32 [B, K]."""

NUM_PLACES = 8
"""Places of the square along each side."""

REACH = 2
"""Width of the square in places: neighbours overlap, so that nothing is cut in two everywhere."""

EMBEDDING, OCCLUSION = "embedding.png", "occlusion.png"


def draw_maps(folder: Path, opened: RunModel, result: SplitResult, table: SplitTable, drawer: Drawer) -> None:
    """Submit embedding.png and, where a prediction is wrong, occlusion.png to the drawer.

    Args:
        folder: where to.
        opened: the model.
        result: its predictions, with logits as the network gives them.
        table: the samples of the split.
        drawer: paints the plots.
    """
    forget_maps(folder)
    calibration = opened.predictor.calibration
    if calibration is not None:
        result = at_temperature(result, calibration.temperature)
    drawer.submit(_embedding(opened, result, table), folder / EMBEDDING)
    tiles = _occlusions(opened, result, table)
    if tiles:
        title = f"{result.split.capitalize()}: what the worst mistakes were decided by"
        drawer.submit(OcclusionFigure(tiles=tiles, title=title), folder / OCCLUSION)


def forget_maps(folder: Path) -> None:
    """Take away the maps of an earlier evaluation, which shows other predictions."""
    for name in (EMBEDDING, OCCLUSION):
        (folder / name).unlink(missing_ok=True)


def _embedding(opened: RunModel, result: SplitResult, table: SplitTable) -> EmbeddingFigure:
    rows = spread_rows(len(result.targets), MAX_POINTS)
    paths = tuple(table.paths[result.indices[row]] for row in rows)
    features = _features(opened, result, rows, paths)
    words = "logits" if features is None else "features before the last layer"
    return EmbeddingFigure(
        features=result.logits[rows] if features is None else features,
        targets=result.targets[rows],
        correct=result.predicted[rows] == result.targets[rows],
        paths=paths,
        class_names=tuple(opened.predictor.class_names),
        title=f"{result.split.capitalize()}: {len(rows):,} images by the network's {words} (t-SNE)",
    )


def _features(
    opened: RunModel, result: SplitResult, rows: NDArray[np.int64], paths: tuple[str, ...]
) -> NDArray[np.float32] | None:
    """Return what the last layer gets [N, D]; None where the model does not give it."""
    path = opened.run_dir.onnx if opened.is_main else opened.path
    if path.suffix != ".onnx" or not path.exists():
        return None
    session = open_session(path)
    if FEATURES_NAME not in {output.name for output in session.get_outputs()}:
        return None
    dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
    chosen = SplitTable(result.split, paths, result.targets[rows], [""] * len(rows))
    parts = [
        session.run([FEATURES_NAME], {INPUT_NAME: batch.inputs.astype(dtype, copy=False)})[0]
        for batch in iterate_examples(chosen, opened.predictor.preprocessing, batch_size=BATCH_SIZE)
    ]
    found = np.concatenate(parts).astype(np.float32)
    # A file that vanished meanwhile leaves no place for its point.
    return found if len(found) == len(rows) else None


def _occlusions(opened: RunModel, result: SplitResult, table: SplitTable) -> tuple[OcclusionTile, ...]:
    predictor, names = opened.predictor, opened.predictor.class_names
    if isinstance(predictor, Ensemble) and not predictor.is_uniform:
        log.info("occlusion maps: none, for the runs prepare images in different ways")
        return ()
    began = time.monotonic()
    tiles: list[OcclusionTile] = []
    predictions = SortedPredictions(result, len(names))
    worst = predictions.worst()[:NUM_OCCLUDED]
    for row in worst.tolist():
        if time.monotonic() - began > MAX_SECONDS:
            log.info("occlusion maps: %d of %d, for the time was up", len(tiles), len(worst))
            break
        try:
            image = predictor.preprocessing.read(table.paths[result.indices[row]])
        except UnreadableImageError as error:
            log.warning("left out %s: %s", error.path, error.reason)
            continue
        predicted = int(predictions.predicted[row])
        tiles.append(
            OcclusionTile(
                image=predictor.preprocessing.pixels(image),
                falls=occlusion_map(predictor.run, predictor.preprocessing.tensor(image), predicted),
                true_label=names[result.targets[row]],
                predicted_label=names[predicted],
                confidence=float(predictions.confidences[row]),
            )
        )
    return tuple(tiles)


def occlusion_map(run: Run, image: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """Return by how much the probability of a class falls when a place is hidden, float32 [P, P].

    Grey squares are moved over the image (Zeiler & Fergus 2014), which asks nothing of a network but its predictions:
    it works on every exported file.

    A place's value is the mean over the squares that hide it; below 0 the image is surer without it.

    Args:
        run: the network.
        image: a preprocessed input, float32 [3, H, W]; the square takes the image's mean.
        number: of the class.
    """
    _, height, width = image.shape
    num_places = min(NUM_PLACES, height, width)
    rows, columns = (np.linspace(0, side, num_places + 1).round().astype(int) for side in (height, width))
    corners = [
        (row, column) for row in range(1 - REACH, num_places) for column in range(1 - REACH, num_places)
    ]  # fmt: skip
    hidden = np.repeat(image[None], len(corners), axis=0)
    grey = image.mean(axis=(1, 2))[:, None, None]
    for square, (row, column) in enumerate(corners):
        top, bottom = rows[max(row, 0)], rows[min(row + REACH, num_places)]
        left, right = columns[max(column, 0)], columns[min(column + REACH, num_places)]
        hidden[square, :, top:bottom, left:right] = grey
    inputs = np.concatenate([image[None], hidden])
    logits = np.concatenate([run(inputs[start : start + BATCH_SIZE]) for start in range(0, len(inputs), BATCH_SIZE)])
    shares = softmax(logits)[:, number]
    falls = shares[0] - shares[1:]
    total, times = np.zeros((num_places, num_places)), np.zeros((num_places, num_places))
    for (row, column), fall in zip(corners, falls, strict=True):
        place = (slice(max(row, 0), row + REACH), slice(max(column, 0), column + REACH))
        total[place] += fall
        times[place] += 1
    return np.asarray(total / times, dtype=np.float32)
