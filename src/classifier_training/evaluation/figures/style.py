"""What all plots share: colours, fonts for the letters of class names, and names that fit their place."""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.display import num_columns, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    import matplotlib.figure
    from matplotlib.axes import Axes

MAX_LABEL_LENGTH = 24

PREFERRED = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Source Han Sans",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Yu Gothic",
    "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip
"""Fonts that are asked first for the letters that matplotlib's own lacks."""

SEPARATORS = " _-/.,:;|+&"
"""Behind these a long name is broken, if it has any."""

FONT_PACKAGE = "matplotlib_fontja"
"""A package with a Japanese font (of the extra `fonts`)."""

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#c53030", "#718096"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY, "#6b46c1", "#b7791f", "#2c7a7b")


def new_figure(width: float, height: float) -> matplotlib.figure.Figure:
    """Return an empty figure of a size in inches, outside pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["font.family"] = _fonts().families
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def new_axes(
    width: float,
    height: float,
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    grid: bool = False,
    open_frame: bool = False,
) -> tuple[matplotlib.figure.Figure, Axes]:
    """Return a figure of a size in inches with one plot; an open frame leaves out the lines above and on the right."""
    figure = new_figure(width, height)
    axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label)
    axes.spines[["top", "right"]].set_visible(not open_frame)
    if grid:
        axes.grid(alpha=0.25)
    return figure, axes


def adopt_fonts(figure: matplotlib.figure.Figure) -> None:
    """Give all texts of a figure the fonts that its names turned out to need: axes make some texts beforehand."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_fontfamily(_fonts().families)


def label_of(class_name: str) -> str:
    """Make a class name fit for an axis: shortened, and so that each of its letters is seen."""
    name = legible(class_name)
    length = MAX_LABEL_LENGTH
    while num_columns(label := shorten(name, length)) > MAX_LABEL_LENGTH:
        length -= 1
    # Matplotlib leaves what begins with an underscore out of legends; a dollar sign would start a formula.
    return ("\u200b" if label.startswith("_") else "") + label.replace("$", r"\$")


def legible(name: str) -> str:
    r"""Make every letter of a name visible: an empty one as a word, and what no font can show as its \u number.

    Fonts of this machine are found for it; see `adopt_fonts`.
    """
    if not name:
        return "(empty)"
    fonts = _fonts()
    return "".join(letter if fonts.can_show(letter) else repr_of(letter) for letter in name)


def repr_of(letter: str) -> str:
    r"""Write a letter as its number, as Python does: \n, \xa0, \u732b, \U0001f408."""
    return letter.encode("unicode_escape").decode()


def font_advice(letters: str) -> str:
    """Say which fonts have letters that are missing, by script."""
    found = []
    names = [unicodedata.name(letter, "") for letter in letters]
    east_asian = [any(script in name for script in ("HIRAGANA", "KATAKANA", "CJK", "HANGUL")) for name in names]
    emoji = [unicodedata.category(letter) == "So" for letter in letters]
    if any(east_asian):
        japanese = " or, for Japanese, the extra 'fonts': uv sync --extra fonts   (or: pip install "
        is_korean = all("HANGUL" in name for name, is_of in zip(names, east_asian, strict=True) if is_of)
        found.append("Debian's fonts-noto-cjk" + ("" if is_korean else f"{japanese}'classifier-training[fonts]')"))
    if any(emoji):
        found.append("Debian's fonts-symbola")
    if not all(one or other for one, other in zip(east_asian, emoji, strict=True)):
        found.append("Debian's fonts-noto-core")
    return "; ".join(found)


def take_missing() -> str:
    """Return the letters that no font could show since the last call."""
    missing, _fonts().missing = _fonts().missing, set()
    return "".join(sorted(missing))


def fit_lines(text: str, width: float, *, size: float, lines: int = 1, reserve: float = 0.0) -> list[str]:
    """Break a text into lines of a width; of what is too long for them the beginning and the end are kept.

    Args:
        text: legible, with dollar signs as they are.
        width: in pixels, at 100 dots an inch.
        size: of the font, in points.
        lines: at most.
        reserve: what of the last line is left free, in pixels.
    """
    found: list[str] = []
    rest = text
    while text_width(rest, size=size) > width - reserve:
        if len(found) == lines - 1:
            return [*found[:-1], *_ends(text, found, width, size=size, reserve=reserve)]
        place = _break(rest, width, size=size)
        found.append(rest[:place].rstrip())
        rest = rest[place:].lstrip()
    return [*found, rest]


def _break(text: str, width: float, *, size: float) -> int:
    """Where a text is broken that is too long for a line: behind a separator if there is one in the second half."""
    end = max(1, min(_num_fitting(text, width, size=size), len(text) - 1))
    places = [
        place
        for place in range(end // 2 + 1, end + 1)
        if text[place - 1] in SEPARATORS or text[place : place + 1] == "\\"
    ]
    return places[-1] if places else end


def _ends(text: str, found: list[str], width: float, *, size: float, reserve: float) -> list[str]:
    """The last two lines, or the only one, of a text that is too long: its beginning, and its end."""
    gap = text_width("…", size=size)
    if not found:
        half = _num_fitting(text, (width - reserve - gap) / 2, size=size)
        return [text[:half] + "…" + _end_of(text, (width - reserve - gap) / 2, size=size)]
    begin = text[len("".join(found[:-1])) :].lstrip()
    return [begin[: _num_fitting(begin, width - gap, size=size)] + "…", _end_of(text, width - reserve, size=size)]


def _end_of(text: str, width: float, *, size: float) -> str:
    """The end of a text, as long as fits."""
    end = text[len(text) - _num_fitting(text[::-1], width, size=size) :]
    while len(end) > 1 and unicodedata.combining(end[0]):
        end = end[1:]
    return end.lstrip()


def _num_fitting(text: str, width: float, *, size: float) -> int:
    """Number of letters that fit, one at least; an accent stays with its letter."""
    end = min(len(text), 1)
    while end < len(text) and text_width(text[: end + 1], size=size) <= width:
        end += 1
    while 1 < end < len(text) and unicodedata.combining(text[end]):
        end -= 1
    return end


@functools.lru_cache(maxsize=20_000)
def text_width(text: str, *, size: float) -> float:
    """Width of a line of text in pixels, at 100 dots an inch."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    properties = FontProperties(family=_fonts().families, size=size)
    renderer = RendererAgg(1, 1, 100)  # type: ignore[no-untyped-call]
    width, *_ = renderer.get_text_width_height_descent(text, properties, ismath=False)  # type: ignore[no-untyped-call]
    return float(width)


class _Fonts:
    """The fonts in use; more are taken from the machine as letters need them."""

    def __init__(self) -> None:
        from matplotlib.font_manager import findfont

        self.families = ["DejaVu Sans"]
        self.missing: set[str] = set()
        self._letters = _letters_of(findfont("DejaVu Sans"))
        self._others = _other_fonts()

    def can_show(self, letter: str) -> bool:
        """Whether a letter can be shown, perhaps by a font that is taken up for it."""
        if ord(letter) in self._letters:
            return letter.isprintable() or letter == "\N{ZERO WIDTH JOINER}"
        category = unicodedata.category(letter)
        if category in ("Cc", "Cs", "Zl", "Zp"):
            return False
        if category == "Cf" or 0xFE00 <= ord(letter) <= 0xFE0F:
            return True  # says how its neighbours look, and is not seen itself
        for path in self._others:
            if self._take(path, letter):
                return True
        self.missing.add(letter)
        return False

    def _take(self, path: str, letter: str) -> bool:
        found = _letters_of(path)
        if ord(letter) not in found:
            return False
        from matplotlib.font_manager import fontManager

        if all(font.fname != path for font in fontManager.ttflist):
            fontManager.addfont(path)
        self.families.append(next(font.name for font in fontManager.ttflist if font.fname == path))
        self._letters = self._letters | found
        text_width.cache_clear()
        return True


@functools.cache
def _fonts() -> _Fonts:
    return _Fonts()


def _other_fonts() -> list[str]:
    """Font files besides matplotlib's own, the most useful first, and those installed after it listed the machine's."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    names = {font.fname: font.name for font in fontManager.ttflist}
    paths = sorted({*names, *findSystemFonts()} - {path for path in names if "mpl-data" in path})

    def order(path: str) -> tuple[int, bool, str]:
        name = names.get(path, "")
        place = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
        return place, not Path(path).stem.startswith("Noto"), path

    return [*sorted(paths, key=order), *_packaged_fonts()]


def _packaged_fonts() -> Iterator[str]:
    # Found and not imported: the package would change how everything is painted.
    spec = importlib.util.find_spec(FONT_PACKAGE)
    for place in spec.submodule_search_locations or () if spec else ():
        yield from map(str, sorted(Path(place).glob("fonts/*.ttf")))


@functools.lru_cache(maxsize=512)
def _letters_of(path: str) -> frozenset[int]:
    """The letters that a font file has, none where it cannot be used: colour images, or damaged."""
    from matplotlib.ft2font import FaceFlags, FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if FaceFlags.SCALABLE in font.face_flags else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
