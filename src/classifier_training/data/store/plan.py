"""The stores that a run uses, the disk space they may take, and the eviction of stores when it is too little."""

from __future__ import annotations

import logging
import shutil
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.columns import Texts
from classifier_training.core.errors import UserError
from classifier_training.core.files import size_bytes
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_size
from classifier_training.core.processes import Rank, hold
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import DETAIL, cache_dir
from classifier_training.core.types import TRAIN
from classifier_training.data.pixel_format import PixelFormat
from classifier_training.data.store.folder import USE_LOCK, StoreFolder, TableStore
from classifier_training.data.store.shards import build_store, describe_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.files import Room
    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.data.formats.source import Store
    from classifier_training.data.index import SplitData

log = logging.getLogger(__name__)

SHARE_OF_FREE_DISK = 0.5
JPEG_SHARE = 0.25
"""Estimated bytes of a JPEG of quality 95 relative to those of its pixels; photographs take less."""

NUM_PROBED = 128


def budget_bytes(base: Path, store_gb: float | None) -> float:
    """Bytes that all stores together may take."""
    if store_gb is not None:
        return store_gb * 1e9
    return SHARE_OF_FREE_DISK * (shutil.disk_usage(base).free + used_bytes(base))


def used_bytes(base: Path) -> int:
    """Bytes that all stores take now."""
    return sum(size_bytes(folder) for folder in _stores(base))


def estimate_bytes(pixel_format: PixelFormat, paths: Sequence[str]) -> float:
    """Estimate the bytes of these files' pixels from the sizes of some."""
    if not paths:
        return 0.0
    areas = []
    for row in np.linspace(0, len(paths) - 1, min(NUM_PROBED, len(paths))).astype(int).tolist():
        try:
            width, height = read_size(paths[row])
        except UnreadableImageError:  # takes no space; decoding it will report the error
            continue
        areas.append(np.prod(pixel_format.shape(height, width)))
    mean = 3 * float(np.mean(areas)) if areas else 0.0
    return len(paths) * mean * (JPEG_SHARE if pixel_format.jpeg else 1)


def make_room(base: Path, wanted: float, budget: float, *, keep: Path) -> float:
    """Remove the least recently used stores until the wanted bytes fit.

    Returns:
        Bytes that may be added now; less than wanted if the remaining stores are in use.
    """
    free = budget - used_bytes(base)
    for folder in sorted(_stores(base), key=_last_use):
        if free >= wanted:
            break
        if folder != keep and (size := _remove(folder)):
            log.info("removed the least recently used store %s to free %.1f GB", folder.name, size / 1e9)
            free += size
    return free


def _stores(base: Path) -> list[Path]:
    return [path for path in base.iterdir() if path.is_dir()]


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another process has removed it
        return 0.0


def _remove(folder: Path) -> int:
    """Remove a store that is not in use; return its bytes, or 0 if it is."""
    try:
        with hold(folder / USE_LOCK, wait=False) as free:
            if not free:
                return 0
            size = size_bytes(folder)
            # Lists first, so that an interrupted removal leaves no list without its pixels; last what others wait for.
            for path in sorted(folder.iterdir(), key=lambda path: (path.name == USE_LOCK, path.suffix != ".entries")):
                path.unlink()
            folder.rmdir()
    except OSError:  # another process removes it too
        return 0
    return size


@contextmanager
def open_stores(
    data: SplitData,
    *,
    preprocessing: Preprocessing,
    crop_scale: float,
    store: Store,
    store_gb: float | None,
    rank: Rank = Rank(),  # noqa: B008 - nothing of it can change
    room: Room | None = None,
) -> Iterator[dict[str, TableStore]]:
    """Open the stores that a run reads and fills, by split; see `StorePlan`.

    Args:
        data: classes and tables.
        preprocessing: what evaluation does to an image.
        crop_scale: smallest share of an image that training crops.
        store: the user's setting.
        store_gb: room for the pixels of all data sets.
        rank: of this process; where several train together, the first of each node fills the stores, before training.
        room: what the run itself will write, which is left free, and checked before a store is filled.

    Raises:
        UserError: when a store was asked for, and there is no room, or none for the run.
    """
    # What one process decodes the others would not see until they open the store anew.
    fills = store == "on" or not rank.is_alone
    plan = StorePlan(
        data, preprocessing=preprocessing, crop_scale=crop_scale, store=store, store_gb=store_gb, room=room
    )
    try:
        plan.open(wait=store == "on" and rank.local_rank == 0)
        if room is not None:
            room.check(store_bytes=plan.missing_bytes)
        if fills and rank.local_rank == 0:
            plan.build()
        yield plan.tables()
    finally:
        plan.close()


class StorePlan:
    """The form of the pixels of each split, and the stores that are used.

    Args:
        data: classes and tables.
        preprocessing: what evaluation does to an image.
        crop_scale: smallest share of an image that training crops.
        store: auto, on, jpeg or off; see the data's settings.
        store_gb: disk space for the pixels of all data sets, in GB; half of the free space when left out.
        room: disk space that the run needs, which is left free; None if no run follows.

    Attributes:
        missing_bytes: estimate of what the opened stores will write to the disk of the run.
    """

    def __init__(
        self,
        data: SplitData,
        *,
        preprocessing: Preprocessing,
        crop_scale: float,
        store: Store,
        store_gb: float | None,
        room: Room | None = None,
    ) -> None:
        self._data = data
        self._store = store
        self._gb = store_gb
        self._room = room
        self.missing_bytes = 0.0
        self._described: dict[str, NDArray[np.void]] = {}
        evaluation = PixelFormat(preprocessing=preprocessing)
        self.pixel_formats = dict.fromkeys(data.tables, evaluation)
        # Evaluation never uses JPEG pixels; only training may.
        self.pixel_formats[TRAIN] = PixelFormat(
            preprocessing=preprocessing, crop_scale=crop_scale, jpeg=store == "jpeg"
        )
        self.folders: dict[PixelFormat, StoreFolder] = {}

    def open(self, *, wait: bool = False) -> None:
        """Open or create the stores, as far as disk space allows.

        Args:
            wait: whether to wait for another process that writes the same store.

        Raises:
            UserError: when a store is required and there is no disk space or no folder for it.
        """
        if self._store == "off":
            return
        try:
            self._base = cache_dir() / "store"
        except UserError as error:
            if self._store != "auto":
                raise
            log.info("no store is used: %s", error.came)
            return
        self._base.mkdir(exist_ok=True)
        for split in self.pixel_formats:
            self._open_for(split, wait=wait)

    def build(self) -> None:
        """Fill the stores before training."""
        for pixel_format, folder in self.folders.items():
            if folder.writes:
                build_store(folder, self.paths(pixel_format))

    def tables(self) -> dict[str, TableStore]:
        """The store of each split that has one."""
        found = {
            split: TableStore(self.folders[pixel_format], self._data.tables[split].paths, self._described.get(split))
            for split, pixel_format in self.pixel_formats.items()
            if pixel_format in self.folders
        }
        self._described.clear()
        return found

    def paths(self, pixel_format: PixelFormat) -> list[str]:
        """Files of the splits with this pixel format, each once."""
        splits = [split for split, chosen in self.pixel_formats.items() if chosen == pixel_format]
        return list(dict.fromkeys(path for split in splits for path in self._data.tables[split].paths))

    def close(self) -> None:
        """Release the stores for other processes."""
        for folder in self.folders.values():
            folder.close()

    def _open_for(self, split: str, *, wait: bool) -> None:
        pixel_format = self.pixel_formats[split]
        if pixel_format in self.folders:
            return
        choices = [pixel_format]
        if self._store == "auto" and split == TRAIN:
            choices.append(
                PixelFormat(preprocessing=pixel_format.preprocessing, crop_scale=pixel_format.crop_scale, jpeg=True)
            )
        budget = budget_bytes(self._base, self._gb)
        paths, described = self._describe(
            [name for name, chosen in self.pixel_formats.items() if chosen == pixel_format]
        )
        for choice in choices:
            folder = StoreFolder(self._path(choice), choice, wait=wait)
            about = folder.folder / "about.json"
            # Whoever may write removes the unfinished files of others.
            if folder.writes and not about.exists():
                write_json(about, {"data": str(self._data.root), "shape_of_1920x1080": choice.shape(1080, 1920)})
            missing = paths[np.flatnonzero(folder.locate(paths, described)["shard"] < 0)]
            wanted = estimate_bytes(choice, missing)
            free = make_room(self._base, wanted, budget, keep=folder.folder) if wanted else 0.0
            reserved = 0.0 if self._room is None else self._room.reserved_bytes(self._base)
            if reserved:
                left = shutil.disk_usage(self._base).free - reserved - self.missing_bytes
                free = min(free, max(left, 0.0))
            if wanted <= free or not wanted:
                folder.limit_bytes = free
                self.missing_bytes += wanted if reserved else 0.0
                self._use(split, pixel_format, choice, folder, num_missing=len(missing), num_files=len(paths))
                return
            folder.close()
            log.info(
                "store: the %s pixels take %.2f GB%s, but only %.2f GB may be used (data.store_gb)",
                split, wanted / 1e9, " as JPEG" if choice.jpeg else "", max(0.0, free) / 1e9,
            )  # fmt: skip
        if self._store in ("on", "jpeg"):
            raise UserError(
                f"data.store={self._store}: not enough disk space for the {split} pixels",
                f"{wanted / 1e9:.2f} GB; the limit of all stores is {budget / 1e9:.2f} GB",
                "raise data.store_gb, free some of the disk, or data.store=auto",
            )

    def _describe(self, splits: Sequence[str]) -> tuple[Texts, NDArray[np.void]]:
        """Return the files of some splits, each once, and what `describe_files` gives for them."""
        parts = [Texts.of(self._data.tables[split].paths) for split in splits]
        for split, part in zip(splits, parts, strict=True):
            self._described[split] = describe_files(part)
        paths = parts[0] if len(parts) == 1 else Texts.joined(parts)
        described = np.concatenate([self._described[split] for split in splits])
        if paths.is_distinct():
            return paths, described
        rows = paths.numbers()[1]
        return paths[rows], described[rows]

    def _use(
        self,
        split: str,
        pixel_format: PixelFormat,
        choice: PixelFormat,
        folder: StoreFolder,
        *,
        num_missing: int,
        num_files: int,
    ) -> None:
        same = [name for name, chosen in self.pixel_formats.items() if chosen == pixel_format]
        self.pixel_formats |= dict.fromkeys(same if choice == pixel_format else [split], choice)
        self.folders[choice] = folder
        if choice.jpeg and self._store == "auto":
            log.info("store: the %s pixels are stored as JPEG, which changes them slightly", split)
        how = "" if folder.writes or not num_missing else "; another process is writing the rest"
        log.info(
            "store: %d of %d images (%s) are in %s%s",
            num_files - num_missing, num_files, ", ".join(same), folder.folder, how, extra=DETAIL,
        )  # fmt: skip

    def _path(self, pixel_format: PixelFormat) -> Path:
        root = blake2b(str(self._data.root).encode(), digest_size=4).hexdigest()
        path = self._base / f"{root}-{pixel_format.fingerprint()}"
        # Two runs may start at the same time.
        path.mkdir(exist_ok=True)
        return path
