"""Shirt numbers as a tracker cuts them out of a broadcast: small, tilted, blurred, noisy, half hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from classifier_training.data.sample_sets.canvas import clouds, font, pick, shade

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.random import Generator

    from classifier_training.data.sample_sets.canvas import Colour

SIDE = 256
"""Images are drawn at this size, degraded and then made smaller."""

SHIRTS: tuple[tuple[Colour, Colour], ...] = (
    ((200, 30, 40), (250, 250, 250)), ((20, 60, 160), (250, 250, 250)), ((245, 245, 245), (20, 20, 30)),
    ((20, 110, 60), (250, 240, 120)), ((250, 205, 40), (20, 40, 110)), ((30, 30, 34), (240, 140, 30)),
)  # fmt: skip
"""Cloth and number of each team."""


@dataclass(frozen=True)
class Jersey:
    """One crop to draw.

    Args:
        path: where to.
        number: on the shirt; empty when none can be seen.
        player: who wears it; a player looks alike in all crops.
        team: of the player.
        shot: of the player, from 0.
        seed: of the data set.
    """

    path: Path
    number: str
    player: int
    team: int
    shot: int
    seed: int


def write_jersey(jersey: Jersey) -> None:
    """Draw one crop and write it as PNG, 48 to 128 pixels on its longer side."""
    image = draw_jersey(jersey.number, player=jersey.player, team=jersey.team, shot=jersey.shot, seed=jersey.seed)
    jersey.path.parent.mkdir(parents=True, exist_ok=True)
    image.save(jersey.path)


def draw_jersey(number: str, *, player: int, team: int, shot: int, seed: int) -> Image.Image:
    """Draw one crop; a pure function of its arguments."""
    body = np.random.default_rng([seed, player])
    rng = np.random.default_rng([seed, player, shot, len(number)])
    cloth, ink = SHIRTS[team % len(SHIRTS)]
    image = clouds(rng, (SIDE, SIDE), ((70, 130, 60), (40, 90, 40)), detail=4)
    draw = ImageDraw.Draw(image)
    skin = shade((224, 180, 150), float(body.uniform(0.35, 1.1)))
    draw.ellipse((92, -40, 164, 52), fill=skin)
    draw.rounded_rectangle((30, 60, 72, 230), 18, fill=skin)
    draw.rounded_rectangle((184, 60, 226, 230), 18, fill=skin)
    draw.polygon([(84, 36), (172, 36), (228, 70), (214, 140), (188, 126), (186, 256), (70, 256), (68, 126),
                  (42, 140), (28, 70)], fill=cloth)  # fmt: skip
    if body.random() < 0.3:
        for x in range(76, 186, 24):
            draw.rectangle((x, 60, x + 8, 256), fill=shade(cloth, 0.85))
    _number(image, number, ink, rng)
    image = Image.blend(image, clouds(rng, (SIDE, SIDE), ((255, 255, 255), (0, 0, 0)), detail=3), 0.18)
    for degrade in DEGRADATIONS:
        image = degrade(image, rng)
    side = int(rng.integers(48, 129))
    return image.resize((side * 3 // 4, side), Image.Resampling.BOX)


def _number(image: Image.Image, number: str, ink: Colour, rng: Generator) -> None:
    """Print the number on the back; without one, the player stands sideways and only a sleeve is seen."""
    if not number:
        if rng.random() < 0.5:
            ImageDraw.Draw(image).rectangle((118, 60, 138, 256), fill=shade(ink, 0.8))
        return
    layer = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(layer).text((128, 140), number, font=font(104), fill=255, anchor="mm", stroke_width=5)
    image.paste(Image.new("RGB", (SIDE, SIDE), ink), (0, 0), layer)


def _perspective(image: Image.Image, rng: Generator) -> Image.Image:
    """Turn the body away, and tilt it."""
    squeeze = rng.uniform(0, 46) if rng.random() < 0.6 else 0.0
    left = rng.random() < 0.5
    corners = np.array([(0, 0), (0, SIDE), (SIDE, SIDE), (SIDE, 0)], dtype=np.float64)
    moved = corners.copy()
    side = [0, 1] if left else [2, 3]
    moved[side, 1] += np.array([-squeeze, squeeze] if left else [squeeze, -squeeze])
    moved[side, 0] += (-1 if left else 1) * squeeze * 0.6
    turned = image.transform(image.size, Image.Transform.PERSPECTIVE, _coefficients(corners, moved),
                             Image.Resampling.BICUBIC)  # fmt: skip
    return turned.rotate(float(rng.normal(0, 6)), Image.Resampling.BICUBIC, fillcolor=(60, 110, 52))


def _coefficients(
    target: np.ndarray[tuple[int, int], np.dtype[np.float64]], source: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> list[float]:
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    found: list[float] = np.linalg.solve(np.array(rows), source.reshape(8)).tolist()
    return found


def _occlusion(image: Image.Image, rng: Generator) -> Image.Image:
    """Another player's arm or leg, or the edge of an advertising board, in front."""
    if rng.random() < 0.3:
        draw = ImageDraw.Draw(image)
        x, y = (int(value) for value in rng.integers(0, SIDE, 2))
        colour = shade(pick(rng, tuple(cloth for cloth, _ in SHIRTS)), 0.8)
        draw.line([(x, -20), (int(rng.integers(0, SIDE)), y + 120)], fill=colour, width=int(rng.integers(16, 52)))
    return image


def _blur(image: Image.Image, rng: Generator) -> Image.Image:
    """Motion to one side, or a lens out of focus."""
    kind = rng.random()
    if kind < 0.25:
        length = int(rng.integers(5, 22))
        pixels = np.asarray(image).astype(np.float32)
        moved = np.mean([np.roll(pixels, step, axis=1) for step in range(length)], axis=0)
        return Image.fromarray(moved.astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 4)))) if kind < 0.75 else image


def _low_resolution(image: Image.Image, rng: Generator) -> Image.Image:
    if rng.random() < 0.4:
        side = int(rng.integers(24, 64))
        return image.resize((side, side), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return image


def _noise(image: Image.Image, rng: Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.float32) * rng.uniform(0.6, 1.2)
    noisy = pixels + rng.normal(0, rng.uniform(1, 16), (SIDE // 2, SIDE // 2, 1)).repeat(2, 0).repeat(2, 1)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


DEGRADATIONS: tuple[Callable[[Image.Image, Generator], Image.Image], ...] = (
    _perspective, _occlusion, _blur, _low_resolution, _noise,
)  # fmt: skip
