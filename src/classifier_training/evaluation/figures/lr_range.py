"""The learning-rate range test, as a curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, ORANGE, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, kw_only=True)
class LrRangeFigure(Figure):
    """Loss over the learning rate.

    Args:
        rates: learning rate of each step.
        losses: smoothed.
        chosen: the learning rate that was taken.
    """

    rates: list[float]
    losses: list[float]
    chosen: float

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure = new_figure(7, 4.2)
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, color=BLUE, linewidth=1.6)
        axes.axvline(self.chosen, color=ORANGE, linestyle="--", linewidth=1.2, label=f"chosen: {self.chosen:g}")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("smoothed training loss")
        axes.set_title("Learning-rate range test")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        return figure
