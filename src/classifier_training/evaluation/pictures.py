"""Pictures inside a page: small, as data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

from classifier_training.core.images import UnreadableImageError, read_preview
from classifier_training.evaluation.report import Thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIDE = 112
STRIP_SIDE, STRIP_GAP = 96, 4


def thumbnail(path: Path, title: str, words: str = "") -> Thumbnail:
    """Return a file's picture for a page, or only its words when it cannot be read."""
    image = _small(path, SIDE)
    if image is None:
        return Thumbnail("", title, words)
    return Thumbnail(_uri(image), title, words, enlarged=max(image.size) < SIDE // 2)


def strip_uri(paths: Sequence[Path]) -> str:
    """Return files' pictures in a row, as one data URI; what cannot be read leaves its place grey."""
    width = len(paths) * (STRIP_SIDE + STRIP_GAP) - STRIP_GAP
    row = Image.new("RGB", (max(1, width), STRIP_SIDE), (235, 235, 235))
    for number, path in enumerate(paths):
        image = _small(path, STRIP_SIDE)
        if image is not None:
            scale = STRIP_SIDE / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            fitted = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
            left = number * (STRIP_SIDE + STRIP_GAP) + (STRIP_SIDE - size[0]) // 2
            row.paste(fitted, (left, (STRIP_SIDE - size[1]) // 2))
    return _uri(row)


def plot_uri(path: Path) -> str:
    """Return a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _small(path: Path, side: int) -> Image.Image | None:
    try:
        image = read_preview(path, min_side=side).image
    except UnreadableImageError:
        return None
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return image


def _uri(image: Image.Image) -> str:
    content = io.BytesIO()
    # Of the smallest, JPEG would show its own blocks.
    kind = "PNG" if max(image.size) < SIDE // 2 else "JPEG"
    image.save(content, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
