"""How much disk the stores may take, and who goes first when it is too little."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.images import UnreadableImageError, read_size
from classifier_training.core.locks import hold
from classifier_training.data.store.shards import folder_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.data.recipe import Recipe

log = logging.getLogger(__name__)

SHARE_OF_FREE_DISK = 0.5
JPEG_SHARE = 0.25
"""Bytes of a JPEG of quality 95 over those of its pixels; photographs take less."""

NUM_PROBED = 128


def budget_bytes(base: Path, store_gb: float | None) -> float:
    """Bytes that all stores together may take."""
    if store_gb is not None:
        return store_gb * 1e9
    return SHARE_OF_FREE_DISK * (shutil.disk_usage(base).free + used_bytes(base))


def used_bytes(base: Path) -> int:
    """Bytes that all stores take now."""
    return sum(folder_bytes(folder) for folder in _stores(base))


def estimate_bytes(recipe: Recipe, paths: Sequence[str]) -> float:
    """Guess how much these files' pixels take, from the sizes of some."""
    if not paths:
        return 0.0
    areas = []
    for row in np.linspace(0, len(paths) - 1, min(NUM_PROBED, len(paths))).astype(int).tolist():
        try:
            width, height = read_size(paths[row])
        except UnreadableImageError:  # takes no room; whoever decodes it says what is wrong with it
            continue
        areas.append(np.prod(recipe.shape(height, width)))
    mean = 3 * float(np.mean(areas)) if areas else 0.0
    return len(paths) * mean * (JPEG_SHARE if recipe.jpeg else 1)


def make_room(base: Path, wanted: float, budget: float, *, keep: Path) -> float:
    """Remove the stores that were not used for longest, until so many bytes fit.

    Returns:
        Bytes that may be added now; less than wanted where stores are in use.
    """
    free = budget - used_bytes(base)
    for folder in sorted(_stores(base), key=lambda folder: folder.stat().st_mtime):
        if free >= wanted:
            break
        if folder != keep and (size := _remove(folder)):
            log.info("the pixels of %s were removed to make room: unused for longest, %.1f GB", folder.name, size / 1e9)
            free += size
    return free


def _stores(base: Path) -> list[Path]:
    return [path for path in base.iterdir() if path.is_dir()]


def _remove(folder: Path) -> int:
    """Remove a store that nobody uses; returns its bytes, or 0."""
    try:
        with hold(folder / "use.lock", wait=False) as free:
            if not free:
                return 0
            size = folder_bytes(folder)
            # The lists first: whatever stops this, what is left is no pixels without a list, or nothing.
            for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".entries"):
                path.unlink()
            folder.rmdir()
    except OSError:  # another process removes it too
        return 0
    return size
