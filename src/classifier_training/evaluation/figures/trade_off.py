"""What one figure costs in another: a point for each contestant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREEN, GREY, ORANGE, RED, label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

COLOURS = (BLUE, ORANGE, GREEN, RED, GREY, "#6b46c1", "#b7791f", "#2c7a7b")


@dataclass(frozen=True, kw_only=True)
class TradeOffFigure(Figure):
    """Points with their names, and bars for their spread.

    Args:
        names: of the points [N].
        x: values [N].
        y: values [N].
        log_x: whether the x values span orders of magnitude.
        from_zero: whether the x axis begins at 0, where it is not logarithmic.
        x_spans: from where to where each x goes [N]; None where no spread was measured.
        title: above the picture.
        x_label: below it.
        y_label: beside it.
    """

    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    log_x: bool = False
    from_zero: bool = True
    x_spans: tuple[tuple[float, float], ...] | None = None
    title: str
    x_label: str
    y_label: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure = new_figure(7.6, 4.2)
        axes = figure.add_subplot()
        spans = self.x_spans or tuple((across, across) for across in self.x)
        points = zip(self.names, self.x, self.y, spans, strict=True)
        for place, (name, across, height, (low, high)) in enumerate(points):
            number = place % len(COLOURS)
            colour = COLOURS[number]
            # Several have the same height, so each is drawn a little smaller than the one below it.
            axes.plot([low, high], [height, height], color=colour, linewidth=5 - 0.7 * number, alpha=0.5)
            axes.plot(across, height, "o", color=colour, markersize=12 - 1.2 * number, label=label_of(name))
        if self.log_x:
            axes.set_xscale("log")
        elif self.from_zero:
            axes.set_xlim(left=0)
        axes.margins(y=0.2)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.set_title(self.title)
        axes.grid(alpha=0.25)
        return figure
