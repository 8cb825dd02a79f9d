"""The files of an evaluation: metrics, predictions, calibration and what rejecting is worth."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.types import SplitResult
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies
from classifier_training.evaluation.plots import draw_results
from classifier_training.evaluation.results import Evaluation, evaluate_predictions, write_results
from classifier_training.evaluation.selective import write_selective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitTable
    from classifier_training.evaluation.drawing import Drawer
    from classifier_training.evaluation.verdict import Targets
    from classifier_training.export.bundle import Calibration
    from classifier_training.inference.predictor import Predictor

log = logging.getLogger(__name__)

Attempt = Callable[[str], AbstractContextManager[object]]


MAX_IN_MEMORY = 2**30
"""Bytes of logits that are held in memory; more are a temporary file."""


def score_table(predictor: Predictor, table: SplitTable, *, skips: bool, folder: Path | None = None) -> SplitResult:
    """Predict the images of a split, and compute the metrics of an epoch.

    Args:
        predictor: predicts.
        table: the samples of the split.
        skips: whether images that cannot be read are left out.
        folder: for a temporary file of logits that are more than `MAX_IN_MEMORY`; the system's when left out.

    Raises:
        UnreadableImageError: for an image that cannot be read and may not be left out.
        UserError: when none can be read.
    """
    shape = (len(table), len(predictor.class_names))
    logits = _room(shape, folder)
    indices: list[int] = []
    for index, output in enumerate(predictor.raw_outputs(table.paths)):
        if output.logits is None:
            if not skips:
                raise UnreadableImageError(output.path, str(output.error))
            log.warning("left out %s: %s", output.path, output.error)
        else:
            logits[len(indices)] = output.logits
            indices.append(index)
    if not indices:
        raise UserError(
            f"{table.paths[0]}: neither this nor any other image can be read",
            "readable images",
            "look at the files",
        )
    logits = logits[: len(indices)]
    rows = np.array(indices, dtype=np.int64)
    targets = table.targets[rows]
    losses = cross_entropies(logits, targets)
    metrics = classification_metrics(logits, targets, losses, predictor.class_names)
    return SplitResult(table.name, logits, targets, rows, losses, metrics)


def _room(shape: tuple[int, int], folder: Path | None) -> NDArray[np.float32]:
    """Room for logits: in memory, or of many in a file without a name, which is gone with the array."""
    if 4 * shape[0] * shape[1] <= MAX_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def write_scores(
    folder: Path,
    result: SplitResult,
    table: SplitTable,
    class_names: Sequence[str],
    drawer: Drawer,
    *,
    calibration: Calibration | None,
    source: str,
    slices: Mapping[str, Sequence[str]] | None = None,
    unknown_labels: Mapping[str, int] | None = None,
    intervals: bool = True,
    csv_safe: bool = False,
    targets: Targets | None = None,
    train_counts: Mapping[str, int] | None = None,
    num_trained_on: int = 0,
    attempt: Attempt = nullcontext,
) -> Evaluation:
    """Score the predictions as they are given to users: with calibrated probabilities where there are such.

    Args:
        folder: where to.
        result: the predictions, with logits as the network gives them.
        table: the samples of the split.
        class_names: [K].
        drawer: paints the plots.
        calibration: what the bundle knows of its own doubts, if it does.
        source: name of the file that predicted.
        slices: for each thing to slice by, the value of each sample of the table.
        unknown_labels: images that the table leaves out for their label, by label.
        intervals: whether to find intervals.
        csv_safe: whether the tables are written so that no cell is a formula to a spreadsheet.
        targets: that the verdict is about; the default ones when left out.
        train_counts: training images by class, if they are known.
        num_trained_on: of these images, those that the model was trained on; see `judge`.
        attempt: a `with` block around each part of the writing, given its name; the metrics are known before.

    Raises:
        UserError: for predictions that cannot be scored.
    """
    temperature = None if calibration is None else calibration.temperature
    given = result if temperature is None else at_temperature(result, temperature)
    evaluation = evaluate_predictions(
        given,
        table,
        class_names,
        slices=slices,
        unknown_labels=unknown_labels,
        intervals=intervals,
        targets=targets,
        train_counts=train_counts,
        num_trained_on=num_trained_on,
    )
    with attempt(f"the tables of {folder.name}/"):
        write_results(folder, given, table, class_names, evaluation, source=source, csv_safe=csv_safe)
    with attempt(f"the plots of {folder.name}/"):
        draw_results(folder, given, table, class_names, evaluation, drawer)
    with attempt(f"{folder.name}/calibration.json"):
        write_selective(
            folder,
            result,
            class_names,
            choice=None if calibration is None else calibration.choice,
            curves=None if calibration is None else calibration.curves or None,
            scores=None if calibration is None else calibration.scores,
            drawer=drawer,
        )
    return evaluation


def at_temperature(result: SplitResult, temperature: float) -> SplitResult:
    """Return the predictions with a temperature, which changes confidences and losses, but no class."""
    losses = cross_entropies(result.logits, result.targets, temperature)
    return replace(result, temperature=temperature, losses=losses)
