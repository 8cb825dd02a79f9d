"""What rejecting unsure answers gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREY, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    import numpy as np
    from numpy.typing import NDArray


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
