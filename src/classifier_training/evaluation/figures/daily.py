"""Values by day, such as those of predictions in use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.display import left_to_right
from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, COLOURS, GREY, RED, label_of, new_axes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import matplotlib.figure

MAX_TICKS = 8


@dataclass(frozen=True, kw_only=True)
class DailyFigure(Figure):
    """Lines over days.

    Args:
        title: above the plot.
        y_label: beside it.
        days: YYYY-MM-DD, in order; days between them that are missing leave a gap of their width.
        lines: values of each day by legend; NaN where there is none.
        low: ends of an interval around the first line; none without one.
        high: the other ends.
        expected: values that are as before, by legend; dashed in the colours of the lines, in their order.
        marked: days that are shaded.
        limits: of the values; found from them when left out.
    """

    title: str
    y_label: str
    days: Sequence[str]
    lines: Mapping[str, Sequence[float]]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    expected: Mapping[str, float] | None = None
    marked: Sequence[str] = ()
    limits: tuple[float, float] | None = None

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from datetime import date

        places = [date.fromisoformat(day).toordinal() for day in self.days]
        figure, axes = new_axes(7, 3.2, title=self.title, y_label=self.y_label, grid=True, open_frame=True)
        for day in self.marked:
            place = date.fromisoformat(day).toordinal()
            axes.axvspan(place - 0.5, place + 0.5, color=RED, alpha=0.1, linewidth=0)
        if self.low:
            axes.fill_between(places, self.low, self.high, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")
        for number, (name, values) in enumerate(self.lines.items()):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(
                places, values, color=colour, linewidth=1.4, marker="o", markersize=3,
                label=left_to_right(label_of(name)),
            )  # fmt: skip
        for number, (name, value) in enumerate((self.expected or {}).items()):
            colour = COLOURS[number % len(COLOURS)] if len(self.lines) > 1 else GREY
            axes.axhline(value, color=colour, linestyle="--", linewidth=1, label=name)
        step = math.ceil(len(places) / MAX_TICKS)
        axes.set_xticks(places[::step], [day[5:] for day in self.days[::step]])
        axes.set_xlim(places[0] - 0.6, places[-1] + 0.6)
        if self.limits is not None:
            axes.set_ylim(*self.limits)
        _, names = axes.get_legend_handles_labels()
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure
