"""Whether confidences mean what they say, and what rejecting unsure answers gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREEN, GREY, ORANGE, RED, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

NUM_BINS = 15
"""Of confidence, all of one width, as for the calibration error."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityFigure(Figure):
    """Share of right answers by confidence, above how often each confidence is given, of right and wrong answers.

    Args:
        confidences: highest probability of each image [N], by what they are, such as before and after calibration.
        correct: whether the answer is right, bool [N].
        title: above the picture.
    """

    confidences: dict[str, NDArray[np.floating]]
    correct: NDArray[np.bool_]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import PercentFormatter

        figure = new_figure(7, 6.6)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        upper.plot(
            [0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="a confidence that means what it says"
        )
        for (label, confidences), colour in zip(self.confidences.items(), (ORANGE, BLUE), strict=False):
            self._curve(upper, label, confidences, colour)
        last = list(self.confidences.values())[-1]
        edges = np.linspace(0, 1, NUM_BINS + 1)
        lower.hist(
            [last[self.correct], last[~self.correct]], bins=edges.tolist(), stacked=True, color=[GREEN, RED],
            label=["right", "wrong"],
        )  # fmt: skip
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1)
        upper.set_ylabel("share of right answers")
        upper.yaxis.set_major_formatter(PercentFormatter(1))
        lower.xaxis.set_major_formatter(PercentFormatter(1))
        lower.set_xlabel("confidence")
        lower.set_ylabel("images")
        upper.set_title(self.title)
        upper.grid(alpha=0.25)
        upper.legend(frameon=False, loc="upper left", fontsize=9)
        lower.legend(frameon=False, loc="upper left", fontsize=9)
        return figure

    def _curve(self, axes: Axes, label: str, confidences: NDArray[np.floating], colour: str) -> None:
        bins = np.minimum((confidences * NUM_BINS).astype(int), NUM_BINS - 1)
        numbers = np.bincount(bins, minlength=NUM_BINS)
        filled = numbers > 0
        means = np.bincount(bins, confidences, NUM_BINS)[filled] / numbers[filled]
        shares = np.bincount(bins, self.correct, NUM_BINS)[filled] / numbers[filled]
        axes.plot(means, shares, color=colour, linewidth=1.2, label=label)
        axes.scatter(means, shares, s=10 + 150 * numbers[filled] / numbers.sum(), color=colour, alpha=0.8)


@dataclass(frozen=True, kw_only=True)
class RiskCoverageFigure(Figure):
    """Share of wrong answers among those that are accepted, by how many are.

    Args:
        coverage: share of accepted answers [M], growing.
        risk: share of wrong ones among them [M].
        title: above the picture.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import PercentFormatter

        figure = new_figure(7, 4.2)
        axes = figure.add_subplot()
        axes.step(self.coverage, self.risk, where="post", color=BLUE, linewidth=1.6)
        overall = float(self.risk[-1])
        axes.axhline(overall, color=GREY, linestyle="--", linewidth=1, label=f"all accepted: {overall:.1%} wrong")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, max(float(self.risk.max()) * 1.1, 0.01))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.set_xlabel("accepted answers, the surest first")
        axes.set_ylabel("wrong among them")
        axes.set_title(self.title)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        return figure
