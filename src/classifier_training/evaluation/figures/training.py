"""Plots of how training went: metrics by epoch, learning-rate range test, distillation, a search for settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREEN, GREY, ORANGE, new_axes, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

    from classifier_training.evaluation.students import StudentScore


@dataclass(frozen=True, kw_only=True)
class HistoryFigure(Figure):
    """Curves over the epochs.

    Args:
        curves: values by legend; None where an epoch has no value.
        epochs: their numbers.
        title: above the image.
        y_label: beside it.
        best_epoch: marked by a line; None for no mark.
        log_scale: whether the values span orders of magnitude.
    """

    curves: dict[str, list[float | None]]
    epochs: list[int]
    title: str
    y_label: str
    best_epoch: int | None
    log_scale: bool = False

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import MaxNLocator

        figure, axes = new_axes(7, 4.2, title=self.title, x_label="epoch", y_label=self.y_label, grid=True)
        for (label, values), colour in zip(self.curves.items(), cycle((BLUE, ORANGE, GREEN, GREY)), strict=False):
            shown = [float("nan") if value is None else value for value in values]
            axes.plot(self.epochs, shown, label=label, color=colour, marker="o", markersize=3, linewidth=1.6)
        if self.best_epoch is not None:
            axes.axvline(
                self.best_epoch,
                color=GREY,
                linestyle="--",
                linewidth=1,
                label=f"best: epoch {self.best_epoch}",
            )
        if self.log_scale:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        return figure


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
        figure, axes = new_axes(
            7,
            4.2,
            title="Learning-rate range test",
            x_label="learning rate",
            y_label="smoothed training loss",
            grid=True,
        )
        axes.plot(self.rates, self.losses, color=BLUE, linewidth=1.6)
        axes.axvline(self.chosen, color=ORANGE, linestyle="--", linewidth=1.2, label=f"chosen: {self.chosen:g}")
        axes.set_xscale("log")
        axes.legend(frameon=False)
        return figure


@dataclass(frozen=True, kw_only=True)
class DistillationFigure(Figure):
    """Accuracy and agreement of every run, by the way that it was taught; the bar is the mean.

    Args:
        scores: the runs.
        teacher_accuracy: shown as a line.
    """

    scores: tuple[StudentScore, ...]
    teacher_accuracy: float

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        ways = sorted(dict.fromkeys(score.taught for score in self.scores), key=lambda way: way is not None)
        labels = ["alone" if way is None else str(way) for way in ways]
        figure = new_figure(10, 1.8 + 0.42 * len(ways))
        for place, (title, name) in enumerate([("accuracy", "accuracy"), ("agreement with the teacher", "agreement")]):
            axes = figure.add_subplot(1, 2, place + 1)
            for row, way in enumerate(ways):
                values = [getattr(score, name) for score in self.scores if score.taught == way]
                axes.barh(row, sum(values) / len(values), color=GREY if way is None else BLUE, alpha=0.35)
                axes.plot(values, [row] * len(values), "o", color=GREY if way is None else BLUE, markersize=5)
            if name == "accuracy":
                axes.axvline(self.teacher_accuracy, color=ORANGE, linestyle="--", linewidth=1.4, label="teacher")
                axes.legend(frameon=False, loc="lower left")
            lowest = min(getattr(score, name) for score in self.scores)
            axes.set_xlim(max(0.0, lowest - 0.1), 1.0)
            axes.set_yticks(range(len(ways)), labels if place == 0 else [""] * len(ways))
            axes.invert_yaxis()
            axes.set_title(title)
            axes.spines[["top", "right"]].set_visible(False)
        return figure


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

        figure, axes = new_axes(7, 4.2, title="Trials", x_label="trial", y_label="score on validation", grid=True)
        axes.scatter(self.pruned_numbers, self.pruned_scores, color=GREY, marker="x", s=26, label="ended early")
        axes.scatter(self.numbers, self.scores, color=BLUE, s=26, label="finished")
        choose = max if self.is_high_good else min
        best = [choose(self.scores[: place + 1]) for place in range(len(self.scores))]
        axes.step(self.numbers, best, where="post", color=ORANGE, linewidth=1.4, label="best so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
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
        figure, axes = new_axes(
            7, 0.9 + 0.42 * len(self.shares), title="What mattered", x_label="importance (PED-ANOVA)"
        )
        ordered = sorted(self.shares.items(), key=lambda item: item[1])
        bars = axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=BLUE)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
        axes.set_xlim(0, max(self.shares.values()) * 1.15)
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

        figure, axes = new_axes(max(7, 1.7 * len(self.axes)), 4.2, title="Finished trials")
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
