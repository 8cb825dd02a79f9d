"""The most confused pairs of classes, with pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.grid import GAP, TILE, draw_tile, lay_out, show_canvas
from classifier_training.evaluation.figures.style import fit_lines, legible, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

CAPTION, NAME_WIDTH = 26, 300
"""Height of a row's words, and room for each of its two names, in pixels."""


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """A row of the figure: images of one class that were taken for another."""

    true_label: str
    answer: str
    count: int
    support: int
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConfusedPairsFigure(Figure):
    """A row of pictures for each pair.

    Args:
        pairs: the most frequent first.
        title: above the picture.
        columns: pictures in a row at most.
    """

    pairs: tuple[ConfusedPair, ...]
    title: str
    columns: int = 6
    shows_photos: ClassVar[bool] = True

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        canvas, corners = lay_out(len(self.pairs) * self.columns, self.columns, height=CAPTION + TILE, width=TILE)
        figure = new_figure(canvas.shape[1] / 100, canvas.shape[0] / 100 + 0.5)
        axes = figure.add_subplot()
        for row, pair in enumerate(self.pairs):
            places = corners[row * self.columns : (row + 1) * self.columns]
            top = places[0][0]
            names = [fit_lines(legible(name), NAME_WIDTH, size=10)[0] for name in (pair.true_label, pair.answer)]
            words = f"{names[0]} taken for {names[1]}: {pair.count:,} of {pair.support:,}".replace("$", r"\$")
            axes.text(GAP, top + CAPTION / 2, words, ha="left", va="center", fontsize=10)
            for path, (_, left) in zip(pair.paths, places, strict=False):
                canvas[top + CAPTION : top + CAPTION + TILE, left : left + TILE] = draw_tile(path)
        show_canvas(axes, canvas, self.title)
        return figure
