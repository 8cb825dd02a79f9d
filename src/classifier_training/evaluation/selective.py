"""What rejecting predictions, and sets of labels, give on labelled images: risk and coverage, examples, files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import enumerate_words, shown
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.types import VAL
from classifier_training.evaluation.figures.predictions import RiskCoverageFigure
from classifier_training.evaluation.guarantees import DELTA, METHOD
from classifier_training.evaluation.predictions import calibration_error
from classifier_training.evaluation.reject import class_thresholds, guaranteed_thresholds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitResult
    from classifier_training.evaluation.calibration import TemperatureChoice
    from classifier_training.evaluation.drawing import Drawer
    from classifier_training.evaluation.label_sets import TrueScores
    from classifier_training.evaluation.reject import AcceptanceCurve


MAX_POINTS = 100_000
"""Of the risk-coverage curve, in its file and its plot."""


@dataclass(frozen=True)
class RiskCoverage:
    """What accepting the most confident predictions gives (El-Yaniv and Wiener 2010), one point for each confidence.

    Args:
        thresholds: lowest confidence that is accepted, float64 [M], falling.
        coverage: share of the predictions that are accepted [M].
        risk: share of wrong ones among them [M].
        area: mean risk over the numbers of accepted predictions from one to all (AURC; Geifman et al. 2019).
    """

    thresholds: NDArray[np.float64]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    area: float

    def thinned(self) -> RiskCoverage:
        """The curve with no more than `MAX_POINTS` of its points, evenly spaced and the last among them."""
        number = len(self.thresholds)
        if number <= MAX_POINTS:
            return self
        kept = np.linspace(0, number - 1, MAX_POINTS).round().astype(np.int64)
        return RiskCoverage(self.thresholds[kept], self.coverage[kept], self.risk[kept], self.area)


def risk_coverage(confidences: NDArray[np.floating], correct: NDArray[np.bool_]) -> RiskCoverage:
    """Compute the curve; predictions of one confidence are accepted together, and share their risk evenly.

    Args:
        confidences: float [N].
        correct: bool [N].
    """
    order = np.argsort(-confidences, kind="stable")
    ordered = confidences[order].astype(np.float64)
    ends = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], [True])) + 1
    wrong = np.cumsum(~correct[order])[ends - 1]
    # Within a group of equals the expected number of wrong predictions grows on a straight line.
    numbers = np.arange(1, len(ordered) + 1)
    expected = np.interp(numbers, np.append([0], ends), np.append([0], wrong))
    return RiskCoverage(
        thresholds=ordered[ends - 1],
        coverage=ends / len(ordered),
        risk=wrong / ends,
        area=float((expected / numbers).mean()),
    )


WISHES: tuple[dict[str, float], ...] = (
    {"precision": 0.9}, {"precision": 0.95}, {"precision": 0.99}, {"coverage": 0.8}, {"coverage": 0.9},
)  # fmt: skip
"""Wishes whose outcome is written down as examples."""

COVERAGES = (0.9, 0.95, 0.99)
"""Of label sets, written down as examples where the validation images allow them."""


def write_selective(
    folder: Path,
    result: SplitResult,
    class_names: Sequence[str],
    *,
    choice: TemperatureChoice | None,
    curves: Mapping[str, AcceptanceCurve] | None,
    scores: TrueScores | None = None,
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
        curves: the validation predictions that thresholds come from; None for a bundle without them.
        scores: the validation probabilities that label sets come from; None for a bundle without them.
        drawer: paints the plot.
    """
    temperature = None if choice is None else choice.temperature
    given = replace(result, temperature=temperature)
    correct = result.predicted == result.targets
    curve = risk_coverage(given.confidences, correct)
    found: dict[str, Any] = {
        "split": result.split,
        "num_images": len(result.targets),
        "temperature": temperature,
        "reason": choice.reason if choice is not None and choice.reason else None,
        "fitted_on": None if temperature is None else VAL,
        "held_out": temperature is not None and result.split != VAL,
        "ece_before": float(calibration_error(result.confidences.astype(np.float64), correct)),
        "ece_after": float(calibration_error(given.confidences.astype(np.float64), correct)),
        "aurc": curve.area,
    }
    if temperature is not None and result.split == VAL:
        found["note"] = "these are the images that the temperature and the thresholds were fitted on"
    if curves is not None:
        found["rejecting"] = [_rejecting(wish, curves, given, class_names) for wish in WISHES]
    if scores is not None:
        found["label_sets"] = [scores.outcome(wanted, given) for wanted in COVERAGES if scores.allows(wanted)]
    write_json(folder / "calibration.json", found)
    curve = curve.thinned()
    rows = zip(curve.thresholds, curve.coverage, curve.risk, strict=True)
    header = ("threshold", "coverage", "risk")
    write_csv(folder / "risk_coverage.csv", header, ([f"{value:.6f}" for value in row] for row in rows))
    figure = RiskCoverageFigure(
        coverage=curve.coverage,
        risk=curve.risk,
        title=f"{result.split.capitalize()}: errors among the accepted predictions (AURC {curve.area:.4f})",
    )
    drawer.submit(figure, folder / "risk_coverage.png")


def rejecting_words(found: Mapping[str, Any]) -> str:
    """Say what the examples of calibration.json are worth, and what they lack images for.

    Args:
        found: content of calibration.json.
    """
    examples = [item for item in found.get("rejecting", []) if "guarantee" in item]
    parts = []
    if examples:
        parts.append(
            f"A precision asked for holds with {1 - examples[0]['delta']:.0%} confidence on images like the validation "
            f"ones, for each threshold: {examples[0]['guarantee']}."
        )
    for item in examples:
        wish = f"{item['precision']:.0%}"
        if not item["possible"]:
            parts.append(f"For {wish} there are too few validation images: {item['needed_predictions']:,} predictions "
                         "that are all correct are needed at least.")  # fmt: skip
        elif item["never_accepted"]:
            names = enumerate_words(map(shown, item["never_accepted"]), limit=6)
            parts.append(f"For {wish} no threshold can be shown for {names}, so no such prediction is accepted.")
    return " ".join(parts)


def _rejecting(
    wish: Mapping[str, float],
    curves: Mapping[str, AcceptanceCurve],
    given: SplitResult,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """What a wish gives on these images; of a precision, as it is guaranteed by default."""
    if "precision" not in wish:
        return {**wish, **_outcome(given, class_names, class_thresholds(curves, **wish))}
    guaranteed = guaranteed_thresholds(curves, precision=wish["precision"], delta=DELTA)
    return {
        **wish,
        "guarantee": METHOD,
        "delta": DELTA,
        "needed_predictions": guaranteed.needed,
        "possible": guaranteed.possible,
        "shared_threshold": list(guaranteed.shared),
        "never_accepted": guaranteed.never,
        **_outcome(given, class_names, guaranteed.by_class),
    }


def _outcome(
    given: SplitResult, class_names: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, float | int | None]:
    """Return what a rule gives on these images; no precision where it accepts nothing."""
    needed = np.array([thresholds[name] for name in class_names])
    accepted = given.confidences >= needed[given.predicted]
    number = int(accepted.sum())
    return {
        "found_precision": float((given.predicted == given.targets)[accepted].mean()) if number else None,
        "found_coverage": number / len(given.targets),
        "num_accepted": number,
    }
