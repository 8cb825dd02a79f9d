"""A search for settings in images: how it went, what mattered, and which values were good together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, kw_only=True)
class SearchHistoryFigure(Figure):
    """The score of each trial, and the best so far.

    Args:
        numbers: of the finished trials [N], growing.
        scores: of each [N].
        pruned_numbers: of those that were ended early [M].
        pruned_scores: the last score of each [M].
        is_high_good: whether a larger score is better.
    """

    numbers: list[int]
    scores: list[float]
    pruned_numbers: list[int]
    pruned_scores: list[float]
    is_high_good: bool

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(7, 4.2)
        axes = figure.add_subplot()
        axes.scatter(self.pruned_numbers, self.pruned_scores, color=GREY, marker="x", s=26, label="ended early")
        axes.scatter(self.numbers, self.scores, color=BLUE, s=26, label="finished")
        choose = max if self.is_high_good else min
        best = [choose(self.scores[: place + 1]) for place in range(len(self.scores))]
        axes.step(self.numbers, best, where="post", color=ORANGE, linewidth=1.4, label="best so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel("score on validation")
        axes.set_title("Trials")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        return figure


@dataclass(frozen=True, kw_only=True)
class ImportancesFigure(Figure):
    """How much of the scores' spread each setting accounts for.

    Args:
        shares: by setting; they sum to 1.
    """

    shares: dict[str, float]

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure = new_figure(7, 0.9 + 0.42 * len(self.shares))
        axes = figure.add_subplot()
        ordered = sorted(self.shares.items(), key=lambda item: item[1])
        bars = axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=BLUE)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.set_xlim(0, max(self.shares.values()) * 1.15)
        axes.set_xlabel("importance (PED-ANOVA)")
        axes.set_title("What mattered")
        return figure


@dataclass(frozen=True, kw_only=True)
class ParallelFigure(Figure):
    """Each finished trial as a line through its values, coloured by its score.

    Args:
        axes: the settings, each with whether it is on a logarithmic scale; None for one of choices.
        values: of each trial, in that order [N, P].
        scores: of each trial [N].
    """

    axes: dict[str, bool | None]
    values: list[list[Any]]
    scores: list[float]

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        import matplotlib as mpl
        from matplotlib.colors import Normalize

        figure = new_figure(max(7, 1.7 * len(self.axes)), 4.2)
        axes = figure.add_subplot()
        scaled = [
            _scale([row[column] for row in self.values], is_log) for column, is_log in enumerate(self.axes.values())
        ]
        norm = Normalize(min(self.scores), max(self.scores))
        colours = mpl.colormaps["viridis"]
        # The best come last, on top.
        for place in sorted(range(len(self.scores)), key=self.scores.__getitem__):
            heights = [heights[place] for heights, _, _ in scaled]
            axes.plot(range(len(scaled)), heights, color=colours(norm(self.scores[place])), linewidth=1.3, alpha=0.8)
        for place, (_, low, high) in enumerate(scaled):
            axes.axvline(place, color=GREY, linewidth=0.8)
            axes.annotate(low, (place, 0), xytext=(3, -10), textcoords="offset points", fontsize=8, color=GREY)
            axes.annotate(high, (place, 1), xytext=(3, 4), textcoords="offset points", fontsize=8, color=GREY)
        axes.set_xticks(range(len(self.axes)), list(self.axes), fontsize=8)
        axes.set_yticks([])
        axes.set_ylim(-0.1, 1.1)
        axes.set_title("Finished trials")
        figure.colorbar(mpl.cm.ScalarMappable(norm, colours), ax=axes, label="score on validation")
        return figure


def _scale(values: list[Any], is_log: bool | None) -> tuple[list[float], str, str]:  # noqa: FBT001
    """Return heights from 0 to 1, and the words at both ends."""
    if is_log is None:
        names = sorted({str(value) for value in values})
        last = max(len(names) - 1, 1)
        return [names.index(str(value)) / last for value in values], names[0], names[-1] if len(names) > 1 else ""
    numbers = [math.log(value) if is_log else float(value) for value in values]
    low, width = min(numbers), max(numbers) - min(numbers)
    heights = [(number - low) / width if width else 0.5 for number in numbers]
    return heights, f"{min(values):.3g}", f"{max(values):.3g}"
