"""How training went: metrics by epoch, the learning-rate range test, a student beside its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, GREEN, GREY, ORANGE, new_figure

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

        figure = new_figure(7, 4.2)
        axes = figure.add_subplot()
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
        axes.set_xlabel("epoch")
        axes.set_ylabel(self.y_label)
        axes.set_title(self.title)
        axes.grid(alpha=0.25)
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


@dataclass(frozen=True, kw_only=True)
class DistillationFigure(Figure):
    """Accuracy and agreement of every run, by the way that it was taught; the bar is the mean.

    Args:
        scores: the runs.
        teacher_accuracy: drawn as a line.
    """

    scores: tuple[StudentScore, ...]
    teacher_accuracy: float

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        ways = sorted(dict.fromkeys(score.taught for score in self.scores), key=lambda way: way is not None)
        labels = ["alone" if way is None else str(way) for way in ways]
        figure = new_figure(10, 1.8 + 0.42 * len(ways))
        for place, (title, name) in enumerate([("accuracy", "accuracy"), ("answers as the teacher", "agreement")]):
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
