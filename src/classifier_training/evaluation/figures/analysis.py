"""What the files of a data set look like: histograms, mean images, sample sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.grid import TILE, draw_tile, lay_out, show_canvas
from classifier_training.evaluation.figures.style import BLUE, fit_lines, label_of, legible, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    import numpy as np
    from numpy.typing import NDArray


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
        figure = new_figure(6, 3.6)
        axes = figure.add_subplot()
        axes.hist(self.values, bins=40, range=self.span, color=BLUE)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel("files")
        axes.set_title(self.title)
        axes.spines[["top", "right"]].set_visible(False)
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
        figure = new_figure(max(canvas.shape[1] / 72, 4), canvas.shape[0] / 72 + 0.5)
        axes = figure.add_subplot()
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
