"""What one figure costs in another: a point for each contestant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREY, label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, kw_only=True)
class TradeOffFigure(Figure):
    """Points with their names, and bars for their spread.

    Args:
        names: of the points [N].
        x: values [N].
        y: values [N].
        x_spans: from where to where each x goes [N]; None where no spread was measured.
        title: above the picture.
        x_label: below it.
        y_label: beside it.
    """

    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_spans: tuple[tuple[float, float], ...] | None = None
    title: str
    x_label: str
    y_label: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure = new_figure(6.4, 4.2)
        axes = figure.add_subplot()
        if self.x_spans is not None:
            for (low, high), height in zip(self.x_spans, self.y, strict=True):
                axes.plot([low, high], [height, height], color=GREY, linewidth=1.2)
        axes.scatter(self.x, self.y, color=BLUE, zorder=3)
        for name, across, height in zip(self.names, self.x, self.y, strict=True):
            axes.annotate(label_of(name), (across, height), textcoords="offset points", xytext=(5, 5), fontsize=8)
        axes.set_xlim(left=0)
        axes.margins(y=0.2)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.set_title(self.title)
        axes.grid(alpha=0.25)
        return figure
