"""The most confused pairs of classes, with pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.grid import GAP, TILE, draw_tile
from classifier_training.evaluation.figures.style import label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure

CAPTION = 26


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

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class."""
        step = TILE + CAPTION + GAP
        width, height = self.columns * (TILE + GAP) + GAP, len(self.pairs) * step + GAP
        canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        figure = new_figure(width / 100, height / 100 + 0.5)
        axes = figure.add_subplot()
        for row, pair in enumerate(self.pairs):
            top = GAP + row * step
            words = f"{label_of(pair.true_label)} taken for {label_of(pair.answer)}: {pair.count:,} of {pair.support:,}"
            axes.text(GAP, top + CAPTION / 2, words, ha="left", va="center", fontsize=10)
            for column, path in enumerate(pair.paths[: self.columns]):
                left = GAP + column * (TILE + GAP)
                canvas[top + CAPTION : top + CAPTION + TILE, left : left + TILE] = draw_tile(path)
        axes.imshow(canvas, interpolation="nearest", aspect="equal")
        axes.set_axis_off()
        axes.set_title(self.title, fontsize=11)
        return figure
