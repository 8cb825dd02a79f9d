"""Plots of predictions: confusion matrix, scores by class, calibration, and what rejecting unsure ones gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from classifier_training.core.display import left_to_right, num_columns
from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.grid import GAP, TILE, draw_tile, lay_out, show_canvas
from classifier_training.evaluation.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    fit_lines,
    label_of,
    legible,
    new_axes,
    new_figure,
)

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MAX_BARS = 40
"""Classes shown; of more, the worst."""

MAX_ANNOTATED = 25
"""Classes up to which every cell shows its count."""

MAX_CELLS = 200
"""Classes up to which each has a row and a column; of more, neighbours share one of `NUM_CLASS_BINS`."""

NUM_CLASS_BINS = 100

HALF_DARK = 0.5
"""Share from which a cell is so dark that its number is white."""


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrixFigure(Figure):
    """Heat map of the predictions, coloured by the share of each true class.

    Of more than `MAX_CELLS` classes a cell would be a pixel: the mistakes alone are shown, some classes a cell.

    Args:
        counts: images by true class (rows) and predicted class (columns), int64 [K, K].
        class_names: [K].
        title: above the image.
        normalized: whether the cells show shares of the true class in per cent instead of numbers of images.
    """

    counts: NDArray[np.int64]
    class_names: tuple[str, ...]
    title: str
    normalized: bool = False

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.colors import PowerNorm

        size = -(-len(self.class_names) // NUM_CLASS_BINS) if len(self.class_names) > MAX_CELLS else 1
        starts = np.arange(0, len(self.class_names), size)
        num_classes = len(starts)
        side = float(np.clip(2.2 + 0.42 * num_classes, 4.5, 22 if size == 1 else 12))
        figure = new_figure(side + 1.2, side)
        axes = figure.add_subplot()
        support = np.add.reduceat(self.counts.sum(axis=1), starts)[:, None]
        shown = self.counts
        if size > 1:
            shown = shown.copy()
            np.fill_diagonal(shown, 0)
        shown = np.add.reduceat(np.add.reduceat(shown, starts, axis=0), starts, axis=1)
        shares = np.divide(shown, support, out=np.zeros(shown.shape), where=support > 0)
        annotated = num_classes <= MAX_ANNOTATED
        names = [label_of(self.class_names[start]) for start in starts]
        step = 1 if num_classes <= 60 else -(-num_classes // (60 if size == 1 else 30))
        # Without numbers a confusion of one image in a hundred must be seen by its colour.
        norm = PowerNorm(1 if annotated else 0.5, vmin=0, vmax=1 if size == 1 else max(shares.max(), 1e-9))
        mesh = axes.pcolormesh(
            shares, cmap="Blues", norm=norm, edgecolors="white" if annotated else "none", linewidth=0.5 * annotated
        )
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(mesh, ax=axes, shrink=0.8, label=f"share of the true class{'' if size == 1 else 'es'}")
        bar.outline.set_visible(False)
        for (row, column), words in np.ndenumerate(self._words(shares) if annotated else np.empty((0, 0), str)):
            colour = "white" if shares[row, column] > HALF_DARK else "black"
            axes.text(column + 0.5, row + 0.5, words, ha="center", va="center", size=8, color=colour)
        # Thousands of texts inside the axes cannot move its border, but measuring them takes most of the time.
        for text in axes.texts:
            text.set_in_layout(False)
        fits = max(map(num_columns, names)) * 0.1 < (side - 1) / num_classes
        axes.set_xticks(np.arange(0, num_classes, step) + 0.5, names[::step], rotation=0 if fits else 90)
        axes.set_yticks(np.arange(0, num_classes, step) + 0.5, names[::step], rotation=0)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        more = "" if size == 1 else f"\nmistakes alone, {size} classes a row and column, named by their first"
        axes.set_title(self.title + more, fontsize=float(np.clip(side, 11, 18)))
        return figure

    def _words(self, shares: NDArray[np.float64]) -> NDArray[np.str_]:
        # A share that rounds to nothing is something all the same.
        percent = np.where(shares < 0.005, "<1", np.char.mod("%.0f", 100 * shares))
        return np.where(self.counts > 0, percent if self.normalized else self.counts.astype(str), "")


NUM_BINS = 15
"""Of confidence, all of one width, as for the calibration error."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityFigure(Figure):
    """Share of correct predictions by confidence, above the histogram of confidences of correct and wrong ones.

    Args:
        confidences: highest probability of each image [N], by what they are, such as before and after calibration.
        correct: whether the prediction is, bool [N].
        title: above the image.
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
            label=["correct", "wrong"],
        )  # fmt: skip
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1)
        upper.set_ylabel("share of correct predictions")
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
    """Share of wrong predictions among those that are accepted, by how many are.

    Args:
        coverage: share of accepted predictions [M], growing.
        risk: share of wrong ones among them [M].
        title: above the image.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import PercentFormatter

        figure, axes = new_axes(
            7,
            4.2,
            title=self.title,
            x_label="accepted predictions, the most confident first",
            y_label="wrong among them",
            grid=True,
        )
        axes.step(self.coverage, self.risk, where="post", color=BLUE, linewidth=1.6)
        overall = float(self.risk[-1])
        axes.axhline(overall, color=GREY, linestyle="--", linewidth=1, label=f"all accepted: {overall:.1%} wrong")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, max(float(self.risk.max()) * 1.1, 0.01))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.legend(frameon=False)
        return figure


@dataclass(frozen=True, kw_only=True)
class ClassScoresFigure(Figure):
    """Recall as bars with intervals and precision as dots, the worst class first.

    Args:
        recall: with its interval, float [K, 3]: value, low, high; NaN where there is none.
        precision: [K].
        support: images of each class [K].
        class_names: [K].
        title: above the image.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    support: NDArray[np.int64]
    class_names: tuple[str, ...]
    title: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        from matplotlib.ticker import PercentFormatter

        present = np.flatnonzero(np.isfinite(self.recall[:, 0]))
        order = present[np.argsort(self.recall[present, 0], kind="stable")][:MAX_BARS]
        figure, axes = new_axes(8, float(np.clip(1.5 + 0.28 * len(order), 2.6, 14)), open_frame=True)
        rows = np.arange(len(order))
        values, low, high = self.recall[order].T
        reach = np.vstack([values - low, high - values])
        axes.barh(rows, values, 0.7, color=BLUE, alpha=0.75, label="recall")
        if np.isfinite(reach).all() and len(order):
            axes.errorbar(
                values, rows, xerr=reach.clip(min=0), fmt="none", ecolor=GREY, capsize=2, label="95 % interval"
            )
        axes.plot(self.precision[order], rows, "o", color=ORANGE, markersize=5, label="precision")
        names = [f"{left_to_right(label_of(self.class_names[row]))}  ({self.support[row]:,})" for row in order]
        axes.set_yticks(rows, names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        hidden = len(present) - len(order)
        axes.set_title(
            self.title + (f"\n(the {len(order)} worst; {hidden} better ones are not shown)" if hidden else "")
        )
        figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
        return figure


CAPTION, NAME_WIDTH = 26, 300
"""Height of a row's words, and room for each of its two names, in pixels."""


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """A row of the plot: images of one class that were predicted as another."""

    true_label: str
    predicted_label: str
    count: int
    support: int
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConfusedPairsFigure(Figure):
    """A row of images for each pair.

    Args:
        pairs: the most frequent first.
        title: above the image.
        columns: images in a row at most.
    """

    pairs: tuple[ConfusedPair, ...]
    title: str
    columns: int = 6
    shows_photos: ClassVar[bool] = True

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        canvas, corners = lay_out(len(self.pairs) * self.columns, self.columns, height=CAPTION + TILE, width=TILE)
        figure, axes = new_axes(canvas.shape[1] / 100, canvas.shape[0] / 100 + 0.5)
        for row, pair in enumerate(self.pairs):
            places = corners[row * self.columns : (row + 1) * self.columns]
            top = places[0][0]
            names = [
                left_to_right(fit_lines(legible(name), NAME_WIDTH, size=10)[0])
                for name in (pair.true_label, pair.predicted_label)
            ]
            words = f"{names[0]} predicted as {names[1]}: {pair.count:,} of {pair.support:,}".replace("$", r"\$")
            axes.text(GAP, top + CAPTION / 2, words, ha="left", va="center", fontsize=10)
            for path, (_, left) in zip(pair.paths, places, strict=False):
                canvas[top + CAPTION : top + CAPTION + TILE, left : left + TILE] = draw_tile(path)
        show_canvas(axes, canvas, self.title)
        return figure
