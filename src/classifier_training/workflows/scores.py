"""The files of an evaluation: figures, answers, calibration and what rejecting is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.metrics import cross_entropies
from classifier_training.evaluation.results import Evaluation, write_results
from classifier_training.evaluation.selective import write_selective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.evaluation.drawing import Drawer
    from classifier_training.export.calibration import Calibration


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
) -> Evaluation:
    """Score the answers as they are given to users, which is with the calibrated probabilities where there are such.

    Args:
        folder: where to.
        result: the answers, with logits as the network gives them.
        table: the samples of the split.
        class_names: [K].
        drawer: paints the figures.
        calibration: what the bundle knows of its own doubts, if it does.
        source: name of the file that answered.
        slices: for each thing to slice by, the value of each sample of the table.
        unknown_labels: images that the table leaves out for their label, by label.
        intervals: whether to find intervals.

    Raises:
        UserError: for answers that cannot be scored.
    """
    temperature = None if calibration is None else calibration.temperature
    evaluation = write_results(
        folder,
        result if temperature is None else at_temperature(result, temperature),
        table,
        class_names,
        drawer,
        source=source,
        temperature=temperature,
        slices=slices,
        unknown_labels=unknown_labels,
        intervals=intervals,
    )
    write_selective(
        folder,
        result,
        class_names,
        choice=None if calibration is None else calibration.choice,
        curves=None if calibration is None else calibration.curves,
        drawer=drawer,
    )
    return evaluation


def at_temperature(result: SplitResult, temperature: float) -> SplitResult:
    """Return the answers with logits divided by a temperature, which changes no answer, only how sure it is."""
    logits = result.logits / np.float32(temperature)
    return replace(result, logits=logits, losses=cross_entropies(logits, result.targets))
