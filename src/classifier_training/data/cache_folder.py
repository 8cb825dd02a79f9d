"""Folders in the cache that are filled with images once, completely or not at all."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from classifier_training.core.errors import UserError
from classifier_training.core.image_files import FORMATS, UnreadableImageError, image_extensions
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import cache_dir, leave_interrupts, num_cores, starts_quietly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

log = logging.getLogger(__name__)

MARKER = ".complete.json"
"""Written last. A folder without it is incomplete and is made again."""

MIN_PARALLEL = 64
"""Fewest images for which it pays to start processes."""


def cached_folder(name: str, fill: Callable[[Path], dict[str, Any]]) -> Path:
    """Return a folder of the cache; `fill` fills it if it does not exist.

    Args:
        name: of the folder; it determines the content.
        fill: fills an empty folder, and returns metadata for the marker file.

    Raises:
        UserError: when the disk is full.
    """
    folder = cache_dir() / "samples" / name
    if (folder / MARKER).is_file():
        return folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name[:40]}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        facts = fill(temporary)
        write_json(temporary / MARKER, facts)
        if folder.exists() and not (folder / MARKER).is_file():
            folder.rename(temporary.with_name(f"{temporary.name}.old"))
        temporary.rename(folder)
    except OSError as error:
        # Another process may have finished first; its folder is the same.
        if not (folder / MARKER).is_file():
            raise UserError(
                f"{folder}: cannot be written ({error.strerror or error})",
                "disk space for the data set's images in the cache folder",
                "free some, or export CLASSIFIER_TRAINING_CACHE=/some/folder",
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(temporary.with_name(f"{temporary.name}.old"), ignore_errors=True)
    return folder.resolve()


def map_in_processes(work: Callable[[Any], None], jobs: Sequence[Any]) -> None:
    """Call a module-level function for each job, in as many processes as there are cores."""
    if len(jobs) >= MIN_PARALLEL and num_cores() > 1:
        log.info("rendering %d images, once", len(jobs))
        try:
            with ProcessPoolExecutor(
                min(num_cores(), 16), mp_context=get_context("spawn"), initializer=leave_interrupts
            ) as pool:
                with starts_quietly():
                    done = pool.map(work, jobs, chunksize=8)
                for _ in done:
                    pass
        except BrokenProcessPool:
            # A script without `if __name__ == "__main__"` cannot start processes.
            log.warning("the rendering processes ended early; rendering in this one")
        else:
            return
    for job in jobs:
        work(job)


NOT_IN_NAMES = re.compile(r"[^\w.-]+")

Content = Image.Image | bytes | Path
"""Pixels, the bytes of a file, or a file; files are copied as they are."""


def write_rows(folder: Path, split: str, rows: Iterable[tuple[Content, str]]) -> int:
    """Write one split: its images, and annotations with the exact labels.

    Args:
        folder: of the data set.
        split: train, valid or test; empty when there are no splits.
        rows: image and label.

    Returns:
        Number of rows.
    """
    place = folder / split
    place.mkdir(parents=True, exist_ok=True)
    number = 0
    with (place / "annotations.jsonl").open("w", encoding="utf-8") as lines:
        for number, (image, label) in enumerate(rows, start=1):
            # A label may be empty or contain a slash, so the folder name is not the label; the annotation has it.
            inside = NOT_IN_NAMES.sub("_", label).strip(".") or "_"
            name = f"images/{inside}/{number:06d}"
            written = _write_image(place / name, image)
            row: dict[str, Any] = {"image": f"{name}{written}", "suffix": label}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return number


def _write_image(path: Path, image: Content) -> str:
    """Write one image and return its file name extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Image.Image):
        kept = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
        kept.save(f"{path}.png")
        return ".png"
    content = image if isinstance(image, bytes) else image.read_bytes()
    ending = "" if isinstance(image, bytes) else image.suffix.lower()
    if ending not in image_extensions():
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                ending = f".{(opened.format or 'png').lower()}"
        except UnidentifiedImageError as error:
            raise UnreadableImageError(path.name, "the bytes of this row are no image") from error
    Path(f"{path}{ending}").write_bytes(content)
    return ending
