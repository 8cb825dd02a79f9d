"""What all figures share."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from classifier_training.core.table import shorten

if TYPE_CHECKING:
    import matplotlib.figure

MAX_LABEL_LENGTH = 24

WIDE_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Source Han Sans",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Yu Gothic",
    "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai",
)  # fmt: skip
"""Fonts with the letters that matplotlib's own lacks, asked in this order for each of them."""

BLUE, ORANGE, GREEN, RED, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#c53030", "#718096"


def new_figure(width: float, height: float) -> matplotlib.figure.Figure:
    """Return an empty figure of a size in inches, outside pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["font.family"] = _font_families()
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


@functools.cache
def _font_families() -> list[str]:
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in WIDE_FONTS if name in installed)]


def label_of(class_name: str) -> str:
    """Shorten a class name for an axis; an empty one is made visible."""
    if not class_name:
        return "(empty)"
    # A dollar sign would start a formula.
    return shorten(class_name, MAX_LABEL_LENGTH).replace("$", r"\$")
