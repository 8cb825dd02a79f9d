"""Seven classes of screens, as a recorder in a lecture room sees them: 1920 x 1080, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from classifier_training.data.sample_sets.canvas import chart, clouds, lines, pick, shade, text, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.random import Generator

    from classifier_training.data.sample_sets.canvas import Box, Colour

SIZE = (1920, 1080)

PAPERS: tuple[Colour, ...] = (
    (255, 255, 255), (250, 248, 240), (240, 244, 250), (28, 30, 44), (18, 52, 86), (245, 245, 245), (52, 26, 60),
)  # fmt: skip
ACCENTS: tuple[Colour, ...] = (
    (200, 60, 40), (30, 110, 200), (40, 150, 90), (220, 150, 30), (120, 70, 170), (20, 150, 160), (190, 40, 110),
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """The look that all slides of one talk share."""

    paper: Colour
    ink: Colour
    accent: Colour
    bar: str

    @classmethod
    def draw(cls, rng: Generator) -> Theme:
        """Draw a theme."""
        paper = pick(rng, PAPERS)
        ink = (30, 30, 36) if sum(paper) > 380 else (235, 235, 240)
        return cls(paper, ink, pick(rng, ACCENTS), str(rng.choice(["top", "left", "none", "bottom"])))


@dataclass(frozen=True)
class Screen:
    """One image to draw.

    Args:
        path: where to.
        kind: its class.
        talk: number of the recorded talk, which decides the theme.
        number: of the image in its class.
        seed: of the data set.
        width: in pixels; the height follows.
    """

    path: Path
    kind: str
    talk: int
    number: int
    seed: int
    width: int


def write_screen(screen: Screen) -> None:
    """Draw one screen and write it as PNG."""
    image = draw_screen(screen.kind, seed=screen.seed, talk=screen.talk, number=screen.number)
    if screen.width != SIZE[0]:
        image = image.resize((screen.width, round(screen.width * SIZE[1] / SIZE[0])), Image.Resampling.LANCZOS)
    screen.path.parent.mkdir(parents=True, exist_ok=True)
    image.save(screen.path, compress_level=2)


def draw_screen(kind: str, *, seed: int, talk: int, number: int) -> Image.Image:
    """Draw one screen of 1920 x 1080 pixels; a pure function of its arguments."""
    theme = Theme.draw(np.random.default_rng([seed, talk]))
    rng = np.random.default_rng([seed, talk, number, *kind.encode()])
    return KINDS[kind](theme, rng)


def draw_slide(theme: Theme, rng: Generator, size: tuple[int, int] = SIZE) -> Image.Image:
    """A slide alone: a title, and text, a chart, an image or a table."""
    image = Image.new("RGB", SIZE, theme.paper)
    draw = ImageDraw.Draw(image)
    if theme.bar == "top":
        draw.rectangle((0, 0, 1920, 28), fill=theme.accent)
    elif theme.bar == "left":
        draw.rectangle((0, 0, 44, 1080), fill=theme.accent)
    elif theme.bar == "bottom":
        draw.rectangle((0, 1010, 1920, 1080), fill=theme.accent)
    kind = str(rng.choice(["title", "bullets", "chart", "picture", "table"], p=[0.12, 0.4, 0.22, 0.16, 0.1]))
    if kind == "title":
        text(draw, (960, 430), words(rng, 3), 110, theme.ink, "mm")
        text(draw, (960, 580), words(rng, 5), 48, shade(theme.accent, 1.1), "mm")
    else:
        text(
            draw, (120, 90), words(rng, int(rng.integers(2, 5))), 76, theme.accent if rng.random() < 0.5 else theme.ink
        )
        _SLIDE_BODIES[kind](draw, image, theme, rng)
    text(draw, (1840, 1030), str(int(rng.integers(1, 60))), 26, theme.ink, "rm")
    return image if size == SIZE else image.resize(size, Image.Resampling.LANCZOS)


def _bullets(draw: ImageDraw.ImageDraw, _image: Image.Image, theme: Theme, rng: Generator) -> None:
    for place in range(int(rng.integers(3, 8))):
        y = 260 + place * 100
        indent = 60 * int(place > 0 and rng.random() < 0.3)
        draw.ellipse((140 + indent, y + 14, 158 + indent, y + 32), fill=theme.accent)
        text(draw, (190 + indent, y), words(rng, int(rng.integers(3, 9))), 46 - indent // 8, theme.ink)


def _figure(draw: ImageDraw.ImageDraw, _image: Image.Image, theme: Theme, rng: Generator) -> None:
    chart(draw, (200, 280, 1150, 920), rng, theme.accent, theme.ink)
    lines(draw, (1260, 300, 1820, 900), rng, 36, theme.ink)


def _picture(draw: ImageDraw.ImageDraw, image: Image.Image, theme: Theme, rng: Generator) -> None:
    left = 130 if rng.random() < 0.5 else 1000
    image.paste(clouds(rng, (780, 620), (theme.accent, shade(theme.accent, 0.3))), (left, 280))
    begin = 1000 if left < 500 else 150
    lines(draw, (begin, 320, begin + 760, 880), rng, 40, theme.ink)


def _table(draw: ImageDraw.ImageDraw, _image: Image.Image, theme: Theme, rng: Generator) -> None:
    columns, rows = int(rng.integers(3, 6)), int(rng.integers(4, 8))
    width, height = 1620 / columns, 640 / rows
    for row in range(rows):
        for column in range(columns):
            x, y = 150 + column * width, 270 + row * height
            draw.rectangle((x, y, x + width, y + height), outline=theme.ink, fill=theme.accent if row == 0 else None)
            shown = words(rng, 1) if row == 0 or column == 0 else f"{rng.integers(1, 999)}"
            text(draw, (x + width / 2, y + height / 2), shown, 34, (255, 255, 255) if row == 0 else theme.ink, "mm")


_SLIDE_BODIES: dict[str, Callable[[ImageDraw.ImageDraw, Image.Image, Theme, Generator], None]] = {
    "bullets": _bullets, "chart": _figure, "picture": _picture, "table": _table,
}  # fmt: skip


def draw_edit_mode(theme: Theme, rng: Generator) -> Image.Image:
    """An editor of slides: ribbon, strip of thumbnails, the slide, and notes below it."""
    image = Image.new("RGB", SIZE, (228, 228, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 1920, 44), fill=(183, 71, 42))
    text(draw, (960, 22), f"{words(rng, 2)} - Presentation", 22, (255, 255, 255), "mm")
    draw.rectangle((0, 44, 1920, 190), fill=(246, 246, 246))
    for place, name in enumerate(
        ("File", "Home", "Insert", "Design", "Transitions", "Animations", "Slide show", "View")
    ):
        text(draw, (40 + place * 140, 56), name, 22, (60, 60, 60))
    for place in range(24):
        x, y = 40 + place * 76, 98
        draw.rectangle((x, y, x + 50, y + 46), fill=shade(pick(rng, ACCENTS), 1.1) if place % 3 else (210, 210, 214))
        draw.rectangle((x, y + 56, x + 50, y + 62), fill=(170, 170, 175))
    chosen = int(rng.integers(0, 6))
    for place in range(6):
        y = 210 + place * 140
        if place == chosen:
            draw.rectangle((44, y - 6, 256, y + 124), fill=(183, 71, 42))
        image.paste(draw_slide(theme, rng, (200, 112)), (50, y))
        text(draw, (24, y + 10), str(place + 1), 20, (80, 80, 80), "ma")
    notes = rng.random() < 0.7
    height = 700 if notes else 800
    image.paste(draw_slide(theme, rng, (height * 16 // 9, height)), (300 + (1580 - height * 16 // 9) // 2, 215))
    if notes:
        draw.rectangle((280, 935, 1920, 1048), fill=(252, 252, 252))
        text(draw, (300, 950), "Click to add notes", 24, (130, 130, 130))
    _status_bar(draw, (183, 71, 42), f"Slide {chosen + 1} of {rng.integers(7, 60)}")
    return image


def draw_side_screen(theme: Theme, rng: Generator) -> Image.Image:
    """What the speaker sees: the slide, the next one, the notes and a clock on a dark ground."""
    image = Image.new("RGB", SIZE, (34, 34, 36))
    draw = ImageDraw.Draw(image)
    text(draw, (60, 36), f"0:{rng.integers(0, 60):02d}:{rng.integers(0, 60):02d}", 44, (235, 235, 235))
    text(draw, (1160, 36), f"{rng.integers(8, 19)}:{rng.integers(0, 60):02d}", 44, (235, 235, 235), "ra")
    image.paste(draw_slide(theme, rng, (1120, 630)), (50, 120))
    text(draw, (1250, 60), "Next slide", 30, (200, 200, 200))
    image.paste(draw_slide(theme, rng, (600, 338)), (1250, 120))
    lines(draw, (1250, 510, 1860, 1000), rng, 32, (225, 225, 225))
    for place in range(5):
        x = 180 + place * 130
        draw.ellipse((x, 800, x + 76, 876), outline=(150, 150, 150), width=4)
        draw.rectangle((x + 26, 826, x + 50, 850), fill=(150, 150, 150))
    draw.polygon([(80, 960), (120, 930), (120, 990)], fill=(200, 200, 200))
    draw.polygon([(1140, 960), (1100, 930), (1100, 990)], fill=(200, 200, 200))
    text(draw, (610, 960), f"Slide {rng.integers(1, 30)} of {rng.integers(30, 60)}", 32, (200, 200, 200), "mm")
    return image


def draw_desktop(_theme: Theme, rng: Generator) -> Image.Image:
    """A wallpaper with icons and a task bar, often with a window."""
    first, second = pick(rng, ACCENTS), pick(rng, ACCENTS)
    image = clouds(rng, SIZE, (shade(first, 0.9), shade(second, 0.45)), detail=4)
    draw = ImageDraw.Draw(image)
    for column in range(int(rng.integers(1, 4))):
        for row in range(int(rng.integers(3, 8))):
            x, y = 40 + column * 130, 40 + row * 130
            draw.rounded_rectangle((x, y, x + 64, y + 64), 10, fill=shade(pick(rng, ACCENTS), 1.2))
            text(draw, (x + 32, y + 74), words(rng, 1), 20, (255, 255, 255), "ma")
    if rng.random() < 0.6:
        x, y = int(rng.integers(420, 700)), int(rng.integers(80, 240))
        _window(draw, (x, y, x + 1000, y + 640), rng)
    draw.rectangle((0, 1032, 1920, 1080), fill=(24, 26, 32))
    for place in range(int(rng.integers(5, 12))):
        x = 760 + place * 54
        draw.rounded_rectangle((x, 1040, x + 34, 1074), 6, fill=pick(rng, ACCENTS))
    text(draw, (1890, 1056), f"{rng.integers(8, 19)}:{rng.integers(0, 60):02d}", 22, (240, 240, 240), "rm")
    return image


def _window(draw: ImageDraw.ImageDraw, box: Box, rng: Generator) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, fill=(250, 250, 250), outline=(90, 90, 90))
    draw.rectangle((left, top, right, top + 40), fill=(222, 225, 230))
    text(draw, (left + 16, top + 9), words(rng, 2), 22, (60, 60, 60))
    text(draw, (right - 20, top + 9), "x", 22, (60, 60, 60), "ra")
    lines(draw, (left + 30, top + 70, right - 30, bottom - 20), rng, 26, (70, 70, 70))


def draw_no_signal(_theme: Theme, rng: Generator) -> Image.Image:
    """A projector without a source: a message on one colour, on bars, or in a box."""
    message = str(
        rng.choice(["No signal", "NO SIGNAL", "No input detected", "Check signal cable", "HDMI 1: no signal"])
    )
    ground = pick(rng, ((0, 0, 0), (8, 8, 90), (20, 20, 24), (60, 62, 66)))
    image = Image.new("RGB", SIZE, ground)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.3:
        bars: tuple[Colour, ...] = (
            (190, 190, 190), (190, 190, 0), (0, 190, 190), (0, 190, 0), (190, 0, 190), (190, 0, 0), (0, 0, 190),
        )  # fmt: skip
        for place, colour in enumerate(bars):
            draw.rectangle((place * 275, 0, (place + 1) * 275, 1080), fill=colour)
    x, y = (960, 540) if rng.random() < 0.6 else (int(rng.integers(400, 1500)), int(rng.integers(200, 900)))
    draw.rectangle((x - 360, y - 90, x + 360, y + 90), fill=shade(ground, 1.4), outline=(200, 200, 200), width=3)
    text(draw, (x, y), message, int(rng.integers(52, 76)), (240, 240, 240), "mm")
    return image


def draw_blank(_theme: Theme, rng: Generator) -> Image.Image:
    """A black or blue screen, with the slight noise and glow that a camera or converter adds."""
    blue = rng.random() < 0.5
    ground = (int(rng.integers(0, 30)), int(rng.integers(10, 90)), int(rng.integers(150, 240))) if blue else (4, 4, 6)
    image = clouds(rng, SIZE, (ground, shade(ground, 0.85)), detail=3)
    if blue and rng.random() < 0.3:
        draw = ImageDraw.Draw(image)
        text(draw, (200, 240), ":(", 150, (255, 255, 255))
        lines(draw, (200, 470, 1300, 640), rng, 40, (255, 255, 255))
    elif not blue and rng.random() < 0.4:
        ImageDraw.Draw(image).rectangle((60, 60, 84, 66), fill=(190, 190, 190))
    return image


def draw_other(theme: Theme, rng: Generator) -> Image.Image:
    """Anything else: a room, a web page, code, or a call with faces in tiles."""
    kind = int(rng.integers(4))
    if kind == 0:
        return _draw_room(theme, rng)
    image = Image.new("RGB", SIZE, (255, 255, 255) if kind == 1 else (30, 32, 40))
    draw = ImageDraw.Draw(image)
    if kind == 1:
        draw.rectangle((0, 0, 1920, 90), fill=(232, 234, 237))
        draw.rounded_rectangle((160, 40, 1500, 80), 18, fill=(255, 255, 255))
        text(draw, (190, 48), "https://" + "-".join(words(rng, 3).lower().split()) + ".org", 22, (80, 80, 80))
        draw.rectangle((0, 90, 1920, 190), fill=theme.accent)
        text(draw, (200, 115), words(rng, 2), 46, (255, 255, 255))
        lines(draw, (200, 250, 1220, 1060), rng, 28, (50, 50, 50))
        image.paste(clouds(rng, (480, 320), (theme.accent, (240, 240, 240))), (1330, 260))
        lines(draw, (1330, 620, 1800, 1000), rng, 24, (20, 60, 180))
    elif kind == 2:
        for row in range(34):
            x = 90 + 44 * int(rng.integers(0, 5))
            text(draw, (50, 30 + row * 31), str(row + 1), 22, (110, 115, 130), "ra")
            for _ in range(int(rng.integers(0, 6))):
                word = str(rng.choice(["def", "return", "for", "import", "self", "value", "=", "(x)", "if", "items"]))
                text(draw, (x, 30 + row * 31), word, 24, shade(pick(rng, ACCENTS), 1.5))
                x += 26 + 14 * len(word)
    else:
        columns = int(rng.integers(2, 5))
        width, height = 1880 // columns, 1040 // columns
        for place in range(columns * columns):
            x, y = 20 + place % columns * width, 20 + place // columns * height
            image.paste(clouds(rng, (width - 12, height - 12), (pick(rng, ACCENTS), (60, 60, 70))), (x, y))
            _person(draw, x + width // 2, y + height, height * 0.8, rng)
    return image


def _draw_room(theme: Theme, rng: Generator) -> Image.Image:
    """A lecture room from the back: a lit canvas, a wall, rows of heads."""
    image = clouds(rng, SIZE, ((90, 80, 70), (40, 36, 34)), detail=5)
    width = int(rng.integers(600, 1000))
    x, y = int(rng.integers(200, 1700 - width)), int(rng.integers(90, 240))
    image.paste(draw_slide(theme, rng, (width, width * 9 // 16)), (x, y))
    draw = ImageDraw.Draw(image)
    for row in range(3):
        for _ in range(12):
            _person(draw, int(rng.integers(0, 1920)), 860 + row * 130, 220 + row * 60, rng)
    noise = np.asarray(image.filter(ImageFilter.GaussianBlur(2.0))).astype(np.int16)
    return Image.fromarray(np.clip(noise + rng.normal(0, 6, noise.shape), 0, 255).astype(np.uint8))


def _person(draw: ImageDraw.ImageDraw, x: float, bottom: float, height: float, rng: Generator) -> None:
    skin = shade((224, 180, 150), float(rng.uniform(0.4, 1.1)))
    head = height * 0.22
    draw.ellipse(
        (x - 2 * head, bottom - height * 0.5, x + 2 * head, bottom + height), fill=shade(pick(rng, ACCENTS), 0.6)
    )
    draw.ellipse((x - head, bottom - height * 0.95, x + head, bottom - height * 0.4), fill=skin)
    draw.chord((x - head, bottom - height * 0.98, x + head, bottom - height * 0.5), 180, 360, fill=(50, 40, 34))


def _status_bar(draw: ImageDraw.ImageDraw, colour: Colour, words_: str) -> None:
    draw.rectangle((0, 1050, 1920, 1080), fill=colour)
    text(draw, (20, 1054), words_, 20, (255, 255, 255))


KINDS: dict[str, Callable[[Theme, Generator], Image.Image]] = {
    "slide": draw_slide,
    "not_slide_others": draw_other,
    "may_be_slide_powerpoint_edit_mode": draw_edit_mode,
    "not_slide_desktop": draw_desktop,
    "may_be_slide_powerpoint_side_screen": draw_side_screen,
    "not_slide_black_or_blue_screen": draw_blank,
    "not_slide_no_signal": draw_no_signal,
}
"""Class to drawing, the most frequent first."""
