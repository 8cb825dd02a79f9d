"""Many classifiers in one plot: accuracy against cost, and their metrics as bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import BLUE, COLOURS, GREY, ORANGE, label_of, new_axes

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, kw_only=True)
class ParetoFigure(Figure):
    """Accuracy against a cost, with the Pareto front.

    Args:
        names: of the classifiers [N].
        costs: of each [N].
        scores: of each [N].
        deviations: of the scores over seeds [N]; 0 for one seed.
        on_front: whether nobody is at least as good in both and better in one [N].
        cost_label: below the image.
        title: above it.
    """

    names: list[str]
    costs: list[float]
    scores: list[float]
    deviations: list[float]
    on_front: list[bool]
    cost_label: str
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure, axes = new_axes(
            7, 4.2, title=self.title, x_label=self.cost_label, y_label="balanced accuracy", grid=True
        )
        colours = [ORANGE if front else BLUE for front in self.on_front]
        axes.errorbar(self.costs, self.scores, yerr=self.deviations, fmt="none", ecolor=GREY, elinewidth=1, zorder=1)
        axes.scatter(self.costs, self.scores, c=colours, s=36, zorder=2)
        front = sorted(
            (cost, score) for cost, score, on in zip(self.costs, self.scores, self.on_front, strict=True) if on
        )
        if front:
            axes.step(*zip(*front, strict=True), where="post", color=ORANGE, linewidth=1.2, label="Pareto front")
            axes.legend(frameon=False, loc="lower right")
        for name, cost, score in zip(self.names, self.costs, self.scores, strict=True):
            axes.annotate(label_of(name), (cost, score), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.margins(0.12)
        return figure


@dataclass(frozen=True, kw_only=True)
class TradeOffFigure(Figure):
    """Points with their names, and bars for their spread.

    Args:
        names: of the points [N].
        x: values [N].
        y: values [N].
        log_x: whether the x values span orders of magnitude.
        x_spans: from where to where each x goes [N]; None where no spread was measured.
        title: above the image.
        x_label: below it.
        y_label: beside it.
    """

    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    log_x: bool = False
    x_spans: tuple[tuple[float, float], ...] | None = None
    title: str
    x_label: str
    y_label: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure, axes = new_axes(7.6, 4.2, title=self.title, x_label=self.x_label, y_label=self.y_label, grid=True)
        spans = self.x_spans or tuple((across, across) for across in self.x)
        points = zip(self.names, self.x, self.y, spans, strict=True)
        for place, (name, across, height, (low, high)) in enumerate(points):
            number = place % len(COLOURS)
            colour = COLOURS[number]
            # Several have the same height, so each is plotted a little smaller than the one below it.
            axes.plot([low, high], [height, height], color=colour, linewidth=5 - 0.7 * number, alpha=0.5)
            axes.plot(across, height, "o", color=colour, markersize=12 - 1.2 * number, label=label_of(name))
        if self.log_x:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        axes.margins(y=0.2)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return figure


@dataclass(frozen=True, kw_only=True)
class WishesFigure(Figure):
    """Files by latency and loss of accuracy, with the limits that they were to meet.

    Args:
        names: of the files [N].
        latencies: 10 %, median and 90 % of each, in ms [N].
        losses: lower end, value and upper end of the loss of each, in points [N].
        sizes: of each, in MiB [N].
        chosen: whether it is the chosen one [N].
        max_latency: largest latency; None for any.
        max_loss: largest upper end of a loss.
        title: above the image.
    """

    names: tuple[str, ...]
    latencies: tuple[tuple[float, float, float], ...]
    losses: tuple[tuple[float, float, float], ...]
    sizes: tuple[float, ...]
    chosen: tuple[bool, ...]
    max_latency: float | None
    max_loss: float
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure, axes = new_axes(
            8.4, 4.4, title=self.title, grid=True,
            x_label="ms for one image: median, 10 to 90 %", y_label="points of accuracy lost, with 95 % bounds",
        )  # fmt: skip
        largest = max(self.sizes, default=1.0)
        others = iter([colour for colour in COLOURS if colour != ORANGE] * len(self.names))
        points = zip(self.names, self.latencies, self.losses, self.sizes, self.chosen, strict=True)
        for name, (fast, middle, slow), (low, loss, high), size, is_chosen in points:
            colour = ORANGE if is_chosen else next(others)
            axes.errorbar(
                middle, loss, xerr=[[middle - fast], [slow - middle]], yerr=[[loss - low], [high - loss]], fmt="none",
                ecolor=colour, elinewidth=1.2, capsize=3, alpha=0.7,
            )  # fmt: skip
            words = f"{label_of(name)}, {size:.1f} MiB" + (", chosen" if is_chosen else "")
            # The area of a point goes with the size of its file.
            axes.scatter(middle, loss, s=25 + 175 * size / largest, color=colour, zorder=3, alpha=0.85, label=words)
        axes.axhline(self.max_loss, color=GREY, linestyle="--", linewidth=1, label=f"may lose {self.max_loss:g} points")
        if self.max_latency is not None:
            axes.axvline(self.max_latency, color=GREY, linestyle=":", linewidth=1, label=f"{self.max_latency:g} ms")
        axes.set_xscale("log")
        axes.margins(0.15)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return figure
