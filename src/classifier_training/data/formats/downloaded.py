"""Other libraries' data sets written out: image files under their splits, and a row of JSONL for each."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from classifier_training.core.images import EXTENSIONS, FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable

NOT_IN_NAMES = re.compile(r"[^\w.-]+")

Content = Image.Image | bytes | Path
"""Pixels, the bytes of a file, or a file; files are copied as they are."""


def write_rows(folder: Path, split: str, rows: Iterable[tuple[Content, str]]) -> int:
    """Write one split: its images, and annotations that keep each label to the letter.

    Args:
        folder: of the data set.
        split: train, valid or test; empty when there are no splits.
        rows: image and label.

    Returns:
        How many there are.
    """
    place = folder / split
    place.mkdir(parents=True, exist_ok=True)
    number = 0
    with (place / "annotations.jsonl").open("w", encoding="utf-8") as lines:
        for number, (picture, label) in enumerate(rows, start=1):
            # A label may be empty, or hold a slash; the folder is for people, the row for the program.
            inside = NOT_IN_NAMES.sub("_", label).strip(".") or "_"
            name = f"images/{inside}/{number:06d}"
            written = _write(place / name, picture)
            row: dict[str, Any] = {"image": f"{name}{written}", "suffix": label}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return number


def _write(path: Path, picture: Content) -> str:
    """Write one image; gives the ending of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, Image.Image):
        kept = picture if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else picture.convert("RGB")
        kept.save(f"{path}.png")
        return ".png"
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    ending = "" if isinstance(picture, bytes) else picture.suffix.lower()
    if ending not in EXTENSIONS:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            ending = f".{(image.format or 'png').lower()}"
    Path(f"{path}{ending}").write_bytes(content)
    return ending
