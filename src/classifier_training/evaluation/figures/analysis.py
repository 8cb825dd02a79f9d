"""What the files of a data set look like: histograms, mean pictures, sample sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.grid import GAP, TILE, draw_tile
from classifier_training.evaluation.figures.style import BLUE, label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class HistogramFigure(Figure):
    """How many files have which value.

    Args:
        values: one a file [N].
        title: above the picture.
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
    """The mean picture of each class; a sharp one says that its pictures share their background.

    Args:
        means: uint8 [K, S, S, 3].
        class_names: [K].
        columns: pictures in a row.
    """

    means: NDArray[np.uint8]
    class_names: tuple[str, ...]
    columns: int = 6

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        scale, caption, gap = 3, 22, 8
        side = self.means.shape[1] * scale
        rows = -(-len(self.means) // self.columns)
        columns = min(self.columns, len(self.means))
        height, width = rows * (side + caption + gap) + gap, columns * (side + gap) + gap
        canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        figure = new_figure(max(width / 72, 4), height / 72 + 0.5)
        axes = figure.add_subplot()
        for number, (mean, name) in enumerate(zip(self.means, self.class_names, strict=True)):
            row, column = divmod(number, self.columns)
            top, left = gap + row * (side + caption + gap), gap + column * (side + gap)
            canvas[top : top + side, left : left + side] = mean.repeat(scale, axis=0).repeat(scale, axis=1)
            axes.text(left + side / 2, top + side + 2, label_of(name)[:16], ha="center", va="top", fontsize=9)
        axes.imshow(canvas, interpolation="nearest", aspect="equal")
        axes.set_axis_off()
        axes.set_title("Mean picture of each class", fontsize=11)
        return figure


@dataclass(frozen=True, kw_only=True)
class SampleSheetFigure(Figure):
    """Pictures of one class.

    Args:
        paths: of the files.
        title: above the sheet.
        columns: pictures in a row.
    """

    paths: tuple[str, ...]
    title: str
    columns: int = 8

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        rows, columns = -(-len(self.paths) // self.columns), min(self.columns, len(self.paths))
        height, width = rows * (TILE + GAP) + GAP, columns * (TILE + GAP) + GAP
        canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        for number, path in enumerate(self.paths):
            row, column = divmod(number, self.columns)
            top, left = GAP + row * (TILE + GAP), GAP + column * (TILE + GAP)
            canvas[top : top + TILE, left : left + TILE] = draw_tile(path)
        figure = new_figure(max(width / 100, 4), height / 100 + 0.4)
        axes = figure.add_subplot()
        axes.imshow(canvas, interpolation="nearest", aspect="equal")
        axes.set_axis_off()
        axes.set_title(label_of(self.title), fontsize=11)
        return figure
