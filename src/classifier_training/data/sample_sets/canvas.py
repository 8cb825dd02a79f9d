"""Drawing with Pillow and its own font: what all rendered images share."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.random import Generator

    Colour = tuple[int, int, int]
    Box = tuple[int, int, int, int]

WORDS = [
    "model", "data", "result", "figure", "method", "growth", "market", "system", "design", "review", "plan", "budget",
    "quarter", "team", "risk", "goal", "energy", "signal", "network", "process", "value", "region", "sample",
    "change", "service", "product", "training", "update", "overview", "analysis", "output", "forecast", "customer",
    "platform", "security", "research", "control", "quality", "delivery", "summary", "outlook", "timeline",
    "milestone",
]  # fmt: skip


@functools.lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; it needs no file."""
    return ImageFont.load_default(size=size)


def words(rng: Generator, number: int) -> str:
    """A phrase that begins with a capital."""
    return " ".join(rng.choice(WORDS, number).tolist()).capitalize()


def shade(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(max(int(value * factor), 0), 255) for value in colour)
    return red, green, blue


def pick(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    """One colour of several."""
    return colours[int(rng.integers(len(colours)))]


def text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], words_: str, size: float, colour: Colour, anchor: str = "la"
) -> None:
    """Write one line; sizes are in pixels."""
    draw.text(place, words_, font=font(max(int(size), 6)), fill=colour, anchor=anchor)


def lines(draw: ImageDraw.ImageDraw, box: Box, rng: Generator, size: int, colour: Colour) -> None:
    """Fill a box with lines of text, cut off at its right edge."""
    left, top, right, bottom = box
    for y in range(top, bottom - size, int(size * 1.5)):
        line = words(rng, int(rng.integers(4, 14)))
        while len(line) > 4 and draw.textlength(line, font=font(size)) > right - left:
            line = line.rpartition(" ")[0] or line[:4]
        text(draw, (left, y), line, size, colour)


def chart(draw: ImageDraw.ImageDraw, box: Box, rng: Generator, accent: Colour, ink: Colour) -> None:
    """A bar chart or a line chart with axes."""
    left, top, right, bottom = box
    draw.line([(left, top), (left, bottom), (right, bottom)], fill=ink, width=3)
    number = int(rng.integers(4, 10))
    heights = rng.uniform(0.15, 0.95, number) * (bottom - top)
    step = (right - left) / number
    if rng.random() < 0.6:
        for place, height in enumerate(heights):
            x = left + (place + 0.2) * step
            draw.rectangle(
                (x, bottom - height, x + 0.6 * step, bottom - 2), fill=shade(accent, 0.7 + 0.1 * (place % 4))
            )
    else:
        points = [(left + (place + 0.5) * step, bottom - height) for place, height in enumerate(heights)]
        draw.line(points, fill=accent, width=6, joint="curve")
        for x, y in points:
            draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=accent)


def clouds(rng: Generator, size: tuple[int, int], colours: tuple[Colour, Colour], *, detail: int = 6) -> Image.Image:
    """A smooth random image between two colours, as of something out of focus."""
    coarse = rng.random((detail, detail * 2, 1))
    mixed = np.array(colours[0]) * coarse + np.array(colours[1]) * (1 - coarse)
    return Image.fromarray(mixed.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
