"""Images with what they are and what they were predicted as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from classifier_training.core.display import left_to_right
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_rgb
from classifier_training.evaluation.drawing import Figure
from classifier_training.evaluation.figures.style import (
    GREEN,
    RED,
    fit_lines,
    legible,
    new_axes,
    text_width,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import matplotlib.figure
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

TILE, GAP, LINE = 128, 12, 16
"""Side of an image, space between two and height of a line below one, in pixels."""

FONT_SIZE, NAME_LINES = 9, 2
"""Of captions: points, and lines that a name may take."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image of a grid."""

    path: str
    true_label: str
    predicted_label: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class SampleGridFigure(Figure):
    """Rows of images, wrong predictions first, each with true class, predicted class and confidence.

    Args:
        tiles: in the order to show them.
        title: above the grid.
        columns: images in a row.
    """

    tiles: tuple[Tile, ...]
    title: str
    columns: int = 8
    shows_photos: ClassVar[bool] = True

    def render(self) -> matplotlib.figure.Figure:
        """Paint it; see the base class. All images are one image, for sixteen small axes take seconds."""
        captions = [caption(tile.true_label, tile.predicted_label, tile.confidence) for tile in self.tiles]
        height = TILE + caption_height(captions)
        canvas, corners = lay_out(len(self.tiles), self.columns, height=height, width=TILE)
        figure, axes = new_axes(canvas.shape[1] / 100, canvas.shape[0] / 100 + 0.5)
        for tile, text, (top, left) in zip(self.tiles, captions, corners, strict=True):
            canvas[top : top + TILE, left : left + TILE] = draw_tile(tile.path)
            colour = GREEN if tile.true_label == tile.predicted_label else RED
            write_caption(axes, text, left + TILE / 2, top + TILE, colour)
        show_canvas(axes, canvas, self.title)
        return figure


def caption(true_label: str, predicted_label: str, confidence: float, *, width: int = TILE) -> list[str]:
    """Say below an image what it was predicted as, with which confidence and, where that is wrong, what it is.

    Args:
        true_label: class of the image.
        predicted_label: class that it was predicted as.
        confidence: of the prediction.
        width: of the image in pixels.

    Returns:
        Lines that are no wider than the image and half the gaps beside it.
    """
    # What is around the canvas makes it a little smaller than its pixels.
    room = 0.96 * width + GAP / 2
    share = f" {confidence:.0%}"
    reserve = text_width(share, size=FONT_SIZE)
    lines = fit_lines(legible(predicted_label), room, size=FONT_SIZE, lines=NAME_LINES, reserve=reserve)
    lines[-1] = left_to_right(lines[-1]) + share
    if predicted_label != true_label:
        lines += fit_lines(f"is {legible(true_label)}", room, size=FONT_SIZE, lines=NAME_LINES)
    return lines


def caption_height(captions: Sequence[Sequence[str]]) -> int:
    """Return the room that the longest of some captions takes, in pixels."""
    return LINE * max(map(len, captions), default=1) + 6


def write_caption(axes: Axes, lines: Sequence[str], centre: float, top: float, colour: str) -> None:
    """Write a caption below an image."""
    text = "\n".join(lines).replace("$", r"\$")
    axes.text(centre, top + 3, text, ha="center", va="top", fontsize=FONT_SIZE, color=colour)


def lay_out(
    number: int, columns: int, *, height: int, width: int, gap: int = GAP
) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """Return a white canvas, uint8 [H, W, 3], with room for images in rows, and the top and left of each.

    Args:
        number: of images.
        columns: images in a row.
        height: of an image with its caption, in pixels.
        width: likewise.
        gap: between two images, and around them.
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
    """Return a square image with grey bars; small ones are enlarged without smoothing, to be seen as they are.

    Grey samples of more than 8 bits are shown by their own range.
    """
    tile = Image.new("RGB", (TILE, TILE), (235, 235, 235))
    try:
        image = read_rgb(path, max_value=None)
    except UnreadableImageError:
        return np.asarray(tile)
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    tile.paste(small, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return np.asarray(tile)
