"""Plots of a data set: classes, sizes, histograms, mean images, sample sheets, an image's way into a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.grid import TILE, draw_tile, lay_out, show_canvas
from classifier_training.evaluation.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    fit_lines,
    label_of,
    legible,
    new_axes,
    new_figure,
)

if TYPE_CHECKING:
    import matplotlib.figure
    from numpy.typing import NDArray

MAX_BARS = 60
"""Classes shown by name; of more, the most frequent and the rarest halves are shown."""


@dataclass(frozen=True, kw_only=True)
class ClassBarsFigure(Figure):
    """Bars by class, the most frequent first, one colour a series.

    Args:
        series: values of each class [K] by legend; the first decides the order.
        class_names: [K].
        title: above the image.
        x_label: below it.
    """

    series: dict[str, NDArray[np.float64]]
    class_names: tuple[str, ...]
    title: str
    x_label: str

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        leading = next(iter(self.series.values()))
        order = np.argsort(-leading, kind="stable")
        left_out = max(0, len(order) - MAX_BARS)
        if left_out:
            order = np.concatenate([order[: MAX_BARS // 2], order[-(MAX_BARS // 2) :]])
        figure, axes = new_axes(
            8, float(np.clip(1.4 + 0.26 * len(order), 3, 17)), x_label=self.x_label, open_frame=True
        )
        rows = np.arange(len(order))
        thickness = 0.8 / len(self.series)
        for number, ((label, values), colour) in enumerate(
            zip(self.series.items(), (BLUE, ORANGE, GREEN, GREY), strict=False)
        ):
            bars = axes.barh(
                rows + (number - (len(self.series) - 1) / 2) * thickness,
                values[order],
                thickness,
                label=label,
                color=colour,
            )
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2)
        axes.set_yticks(rows, [label_of(self.class_names[row]) for row in order], fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.08)
        note = f"\n({left_out} classes in the middle are not shown)" if left_out else ""
        axes.set_title(self.title + note)
        if len(self.series) > 1:
            # Below the axes: every place inside may have bars.
            figure.legend(frameon=False, loc="outside lower center", ncols=len(self.series))
        return figure


@dataclass(frozen=True, kw_only=True)
class ImageSizesFigure(Figure):
    """Widths and heights of all images.

    Args:
        sizes: width and height in pixels [N, 2].
        input_size: side of the network's input, marked.
    """

    sizes: NDArray[np.integer[Any]]
    input_size: int

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure, axes = new_axes(5.6, 5, x_label="width (pixels)", y_label="height (pixels)")
        distinct, counts = np.unique(self.sizes, axis=0, return_counts=True)
        area = np.clip(400 * counts / counts.max(), 12, None)
        axes.scatter(distinct[:, 0], distinct[:, 1], s=area, color=BLUE, alpha=0.5, linewidths=0, label="images")
        axes.scatter(
            [self.input_size], [self.input_size], marker="s", s=60, facecolors="none", edgecolors=ORANGE,
            linewidths=2, label=f"network input, {self.input_size} px",
        )  # fmt: skip
        reach = max(float(self.sizes.max()), float(self.input_size)) * 1.08
        axes.plot([0, reach], [0, reach], color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, reach)
        axes.set_ylim(0, reach)
        axes.set_aspect("equal")
        sizes = "one size" if len(distinct) == 1 else f"{len(distinct):,} sizes"
        axes.set_title(f"Image sizes: {len(self.sizes):,} files, {sizes}")
        axes.legend(frameon=False, loc="upper left")
        return figure


@dataclass(frozen=True, kw_only=True)
class HistogramFigure(Figure):
    """How many files have which value.

    Args:
        values: one a file [N].
        title: above the image.
        x_label: below it.
        span: from where to where; the values' own when None.
    """

    values: NDArray[np.float64]
    title: str
    x_label: str
    span: tuple[float, float] | None = None

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        figure, axes = new_axes(6, 3.6, title=self.title, x_label=self.x_label, y_label="files", open_frame=True)
        axes.hist(self.values, bins=40, range=self.span, color=BLUE)
        return figure


@dataclass(frozen=True, kw_only=True)
class MeanImagesFigure(Figure):
    """The mean image of each class; a sharp one says that its images share their background.

    Args:
        means: uint8 [K, S, S, 3].
        class_names: [K].
        columns: images in a row.
    """

    means: NDArray[np.uint8]
    class_names: tuple[str, ...]
    columns: int = 6

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        scale, caption, gap = 3, 22, 8
        side = self.means.shape[1] * scale
        columns = min(self.columns, len(self.means))
        canvas, corners = lay_out(len(self.means), columns, height=side + caption, width=side, gap=gap)
        figure, axes = new_axes(max(canvas.shape[1] / 72, 4), canvas.shape[0] / 72 + 0.5)
        for mean, name, (top, left) in zip(self.means, self.class_names, corners, strict=True):
            canvas[top : top + side, left : left + side] = mean.repeat(scale, axis=0).repeat(scale, axis=1)
            # The canvas is shown larger than its pixels.
            words = fit_lines(legible(name), 0.96 * (side + gap / 2) * 100 / 72, size=9)[0].replace("$", r"\$")
            axes.text(left + side / 2, top + side + 2, words, ha="center", va="top", fontsize=9)
        show_canvas(axes, canvas, "Mean image of each class")
        return figure


@dataclass(frozen=True, kw_only=True)
class SampleSheetFigure(Figure):
    """Images of one class.

    Args:
        paths: of the files.
        title: above the sheet.
        columns: images in a row.
    """

    paths: tuple[str, ...]
    title: str
    columns: int = 8

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        canvas, corners = lay_out(len(self.paths), min(self.columns, len(self.paths)), height=TILE, width=TILE)
        for path, (top, left) in zip(self.paths, corners, strict=True):
            canvas[top : top + TILE, left : left + TILE] = draw_tile(path)
        figure = new_figure(max(canvas.shape[1] / 100, 4), canvas.shape[0] / 100 + 0.4)
        show_canvas(figure.add_subplot(), canvas, label_of(self.title))
        return figure
