"""Pictures with what they are and what they were taken for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from classifier_training.core.images import UnreadableImageError, read_rgb
from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import GREEN, RED, label_of, new_figure

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

TILE, GAP, CAPTION = 128, 12, 40
"""Side of a picture, space between two and height of a caption, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a grid."""

    path: str
    true_label: str
    predicted_label: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class SampleGridFigure(Figure):
    """Rows of pictures, wrong answers first, each with truth, answer and confidence.

    Args:
        tiles: in the order to show them.
        title: above the grid.
        columns: pictures in a row.
    """

    tiles: tuple[Tile, ...]
    title: str
    columns: int = 8
    shows_photos: ClassVar[bool] = True

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class. All pictures are one image, for sixteen small axes take seconds."""
        canvas, corners = lay_out(len(self.tiles), self.columns, height=TILE + CAPTION, width=TILE)
        figure = new_figure(canvas.shape[1] / 100, canvas.shape[0] / 100 + 0.5)
        axes = figure.add_subplot()
        for tile, (top, left) in zip(self.tiles, corners, strict=True):
            canvas[top : top + TILE, left : left + TILE] = draw_tile(tile.path)
            right = tile.true_label == tile.predicted_label
            answer = f"{label_of(tile.predicted_label)} {tile.confidence:.0%}"
            text = answer if right else f"{answer}\nis {label_of(tile.true_label)}"
            axes.text(
                left + TILE / 2,
                top + TILE + 3,
                text,
                ha="center",
                va="top",
                fontsize=9,
                color=GREEN if right else RED,
            )
        show_canvas(axes, canvas, self.title)
        return figure


def lay_out(
    number: int, columns: int, *, height: int, width: int, gap: int = GAP
) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """Return a white canvas, uint8 [H, W, 3], with room for pictures in rows, and the top and left of each.

    Args:
        number: of pictures.
        columns: pictures in a row.
        height: of a picture with its caption, in pixels.
        width: likewise.
        gap: between two pictures, and around them.
    """
    down, across = height + gap, width + gap
    canvas = np.full((-(-number // columns) * down + gap, columns * across + gap, 3), 255, dtype=np.uint8)
    return canvas, [(gap + place // columns * down, gap + place % columns * across) for place in range(number)]


def show_canvas(axes: Axes, canvas: NDArray[np.uint8], title: str) -> None:
    """Show a painted canvas pixel by pixel, with nothing around it but a title."""
    axes.imshow(canvas, interpolation="nearest", aspect="equal")
    axes.set_axis_off()
    axes.set_title(title, fontsize=11)


def draw_tile(path: str) -> NDArray[np.uint8]:
    """Return a square picture with grey bars; small ones are enlarged without smoothing, to be seen as they are."""
    tile = Image.new("RGB", (TILE, TILE), (235, 235, 235))
    try:
        image = read_rgb(path)
    except UnreadableImageError:
        return np.asarray(tile)
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    tile.paste(small, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return np.asarray(tile)
