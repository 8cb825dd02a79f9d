"""What the calibration and the reject option are worth on labelled images: files for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.types import VAL, softmax
from classifier_training.evaluation.calibration import expected_calibration_error
from classifier_training.evaluation.figures.calibration import RiskCoverageFigure
from classifier_training.evaluation.reject import class_thresholds, risk_coverage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult
    from classifier_training.evaluation.calibration import TemperatureChoice
    from classifier_training.evaluation.drawing import Drawer
    from classifier_training.evaluation.reject import AcceptanceCurve

WISHES: tuple[dict[str, float], ...] = (
    {"precision": 0.9}, {"precision": 0.95}, {"precision": 0.99}, {"coverage": 0.8}, {"coverage": 0.9},
)  # fmt: skip
"""Wishes whose outcome is written down as examples."""


def write_selective(
    folder: Path,
    result: SplitResult,
    class_names: Sequence[str],
    *,
    choice: TemperatureChoice | None,
    curves: Mapping[str, AcceptanceCurve] | None,
    drawer: Drawer,
) -> None:
    """Write calibration.json, risk_coverage.csv and risk_coverage.png.

    calibration.json holds temperature, what the logits are divided by, and where that is 1 for a reason the `reason`;
    and of these images ece_before, at a temperature of 1, and ece_after, at that one.

    Args:
        folder: where to.
        result: logits before the temperature.
        class_names: [K].
        choice: the temperature that validation decided on; None for a bundle without one.
        curves: the validation answers that thresholds come from; None for a bundle without them.
        drawer: paints the figure.
    """
    temperature = None if choice is None else choice.temperature
    shares = softmax(result.logits / np.float32(temperature or 1.0))
    curve = risk_coverage(shares.max(axis=1), result.predicted == result.targets)
    found: dict[str, Any] = {
        "split": result.split,
        "num_images": len(result.targets),
        "temperature": temperature,
        "reason": choice.reason if choice is not None and choice.reason else None,
        "fitted_on": None if temperature is None else VAL,
        "held_out": temperature is not None and result.split != VAL,
        "ece_before": expected_calibration_error(result.probabilities, result.targets),
        "ece_after": expected_calibration_error(shares, result.targets),
        "aurc": curve.area,
    }
    if temperature is not None and result.split == VAL:
        found["note"] = "these are the images that the temperature and the thresholds were fitted on"
    if curves is not None:
        found["rejecting"] = [
            {**wish, **_outcome(shares, result.targets, class_names, class_thresholds(curves, **wish))}
            for wish in WISHES
        ]
    write_json(folder / "calibration.json", found)
    rows = zip(curve.thresholds, curve.coverage, curve.risk, strict=True)
    header = ("threshold", "coverage", "risk")
    write_csv(folder / "risk_coverage.csv", header, ([f"{value:.6f}" for value in row] for row in rows))
    figure = RiskCoverageFigure(
        coverage=curve.coverage,
        risk=curve.risk,
        title=f"{result.split.capitalize()}: errors among the accepted answers (AURC {curve.area:.4f})",
    )
    drawer.submit(figure, folder / "risk_coverage.png")


def _outcome(
    shares: NDArray[np.float32],
    targets: NDArray[np.int64],
    class_names: Sequence[str],
    thresholds: Mapping[str, float],
) -> dict[str, float | int | None]:
    """Return what a rule gives on these images; no precision where it accepts nothing."""
    predicted = shares.argmax(axis=1)
    needed = np.array([thresholds[name] for name in class_names])
    accepted = shares.max(axis=1) >= needed[predicted]
    number = int(accepted.sum())
    return {
        "found_precision": float((predicted == targets)[accepted].mean()) if number else None,
        "found_coverage": number / len(targets),
        "num_accepted": number,
    }
