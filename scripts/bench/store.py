"""Epochs out of the store against a Pillow loader with two processes, same images, crops and colour jitter, in turn.

Ours is timed twice: in the first epoch, in which the pixels are written, and later, when they come from the disk.

    python scripts/bench/store.py --files 2000                 # screens, photos and crops
    python scripts/bench/store.py --memory                     # 20,000 against 200,000 samples
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter, functional

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import SplitTable
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.data.dataset import ImageDataset
from classifier_training.data.loader import BatchLoader
from classifier_training.data.pixel_format import PixelFormat
from classifier_training.data.samplers import EpochSampler
from classifier_training.data.store.folder import StoreFolder, TableStore

if TYPE_CHECKING:
    from collections.abc import Iterable

SETS = {
    # name: (width, height, ending, side of the network's input, wanted ratio)
    "screens": (1920, 1080, "png", 256, 40),
    "photos": (500, 375, "jpg", 256, 8),
    "crops": (64, 64, "jpg", 64, 3),
}
COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
CROP_SCALE = 0.7
BATCH_SIZE = 64
NUM_PROCESSES = 2


class PillowDataset(Dataset[tuple[torch.Tensor, int]]):
    """What people write by hand: open, draft, crop, resize, jitter."""

    def __init__(self, paths: list[str], side: int) -> None:
        self._paths, self._side = paths, side
        self._jitter = ColorJitter(**COLOURS)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(self._paths[row]) as image:
            image.draft("RGB", (self._side, self._side))
            picture = image.convert("RGB")
        share = random.uniform(CROP_SCALE, 1)  # noqa: S311
        stretch = math.exp(random.uniform(-0.5, 0.5) * math.log(4 / 3))  # noqa: S311
        width = min(picture.width, picture.width * math.sqrt(share) * stretch)
        height = min(picture.height, picture.height * math.sqrt(share) / stretch)
        left, top = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)  # noqa: S311
        box = (left, top, left + width, top + height)
        fitted = picture.resize((self._side, self._side), Image.Resampling.BILINEAR, box=box)
        return functional.pil_to_tensor(self._jitter(fitted)), 0


def render(folder: Path, kind: str, number: int) -> str:
    """Write one image that looks a little like what it stands for."""
    width, height, ending, _, _ = SETS[kind]
    random_numbers = np.random.default_rng(number)
    if kind == "screens":
        image = Image.new("RGB", (width, height), tuple(random_numbers.integers(200, 256, 3).tolist()))
        pen = ImageDraw.Draw(image)
        for _ in range(12):
            left, top = int(random_numbers.integers(width)), int(random_numbers.integers(height))
            colour = tuple(random_numbers.integers(0, 256, 3).tolist())
            pen.rectangle((left, top, left + 300, top + 120), fill=colour)
            for line in range(6):
                pen.text((left, top + 130 + 16 * line), f"{number} {line} the quick brown fox " * 3, fill="black")
    else:
        coarse = random_numbers.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        noise = random_numbers.integers(-12, 12, smooth.shape)
        image = Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    path = folder / f"{kind}_{number:06d}.{ending}"
    image.save(path, quality=90, compress_level=3)  # each format takes what it knows
    return str(path)


def seconds_of(epoch: Iterable[object]) -> float:
    """Go through an epoch."""
    started = time.perf_counter()
    for _ in epoch:
        pass
    return time.perf_counter() - started


def compare(kind: str, paths: list[str], folder: Path, repeats: int) -> None:
    """Time the epochs of one kind of image."""
    side, wanted = SETS[kind][3:]
    pixel_format = PixelFormat(
        preprocessing=Preprocessing(size=(side, side), mean=(0, 0, 0), std=(1, 1, 1)), crop_scale=CROP_SCALE
    )
    store = TableStore(StoreFolder(folder / f"store_{kind}", pixel_format), paths)
    table = SplitTable("train", paths, np.zeros(len(paths), np.int64), [""] * len(paths))
    augmentation = Transforms(crop_scale=CROP_SCALE, **COLOURS)  # type: ignore[arg-type]
    dataset = ImageDataset(
        table, pixel_format=pixel_format, augmentation=augmentation, seed=0, on_error="raise", store=store
    )
    sampler = EpochSampler(table.targets, seed=0)
    ours = BatchLoader(dataset, sampler, batch_size=BATCH_SIZE, num_workers=NUM_PROCESSES)
    pillow = DataLoader(
        PillowDataset(paths, side), batch_size=BATCH_SIZE, shuffle=True, num_workers=NUM_PROCESSES,
        persistent_workers=True,
    )  # fmt: skip
    for path in paths:
        Path(path).read_bytes()
    theirs = [seconds_of(pillow)]
    first = seconds_of(ours)
    later = []
    for epoch in range(1, repeats + 1):
        sampler.set_epoch(epoch)
        later.append(seconds_of(ours))
        if epoch < repeats:
            theirs.append(seconds_of(pillow))
    ratios = [base / mine for base, mine in zip(theirs, later, strict=True)]
    gigabytes = sum(file.stat().st_size for file in store.folder.folder.iterdir()) / 1e9
    print(
        f"{kind}: {len(paths)} files, store {gigabytes:.2f} GB\n"
        f"  Pillow {len(paths) / statistics.median(theirs):.0f} images/s, ours later "
        f"{len(paths) / statistics.median(later):.0f} images/s: {statistics.median(ratios):.1f}x "
        f"({min(ratios):.1f} to {max(ratios):.1f}, n {repeats}; wanted {wanted}x)\n"
        f"  first epoch, with the store being written: {first / theirs[0]:.2f} of Pillow's time (wanted <= 1.10)",
        flush=True,
    )


def memory(number: int) -> None:
    """Print the memory of this process's own that an open store and an epoch take, in MiB."""
    side = 32
    pixel_format = PixelFormat(
        preprocessing=Preprocessing(size=(side, side), mean=(0, 0, 0), std=(1, 1, 1)), crop_scale=1.0
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        blob = io.BytesIO()
        Image.new("RGB", (side, side)).save(blob, "PNG")
        paths = [str(folder / f"{row:06d}.png") for row in range(number)]
        for path in paths:
            Path(path).write_bytes(blob.getvalue())
        subprocess.run([sys.executable, __file__, "--fill", name], check=True)
        before = own_memory()
        store = TableStore(StoreFolder(folder / "store", pixel_format), paths)
        table = SplitTable("train", paths, np.zeros(number, np.int64), [""] * number)
        dataset = ImageDataset(
            table, pixel_format=pixel_format, augmentation=Transforms(crop_scale=1.0, **COLOURS),  # type: ignore[arg-type]
            seed=0, on_error="raise", store=store,
        )  # fmt: skip
        assert store.has(np.arange(number)).all()
        loader = BatchLoader(dataset, EpochSampler(table.targets, seed=0), batch_size=64, num_workers=0)
        seconds_of(loader)
        print(f"{number:,} samples: {own_memory() - before:.0f} MiB beyond the process before the store was opened")


def fill(folder: Path) -> None:
    """Write a store of black pixels for the files of a folder."""
    pixel_format = PixelFormat(
        preprocessing=Preprocessing(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1)), crop_scale=1.0
    )
    paths = sorted(map(str, folder.glob("*.png")))
    store = StoreFolder(folder / "store", pixel_format)
    pixels = np.zeros((32, 32, 3), np.uint8)
    for path, entry in zip(paths, store.locate(paths), strict=True):
        store.add(path, entry, pixels)
    store.close()


def own_memory() -> float:
    """Resident memory that is no page of a file, in MiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


def main() -> None:
    """Print the figures of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--samples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill)
    elif options.samples:
        memory(options.samples)
    elif options.memory:
        for number in (20_000, 200_000):
            subprocess.run([sys.executable, __file__, "--samples", str(number)], check=True)
    else:
        torch.set_num_threads(NUM_PROCESSES)
        for kind in options.sets:
            with tempfile.TemporaryDirectory() as name:
                with ProcessPoolExecutor(os.cpu_count()) as pool:
                    paths = list(pool.map(partial(render, Path(name), kind), range(options.files), chunksize=16))
                compare(kind, paths, Path(name), options.repeats)


if __name__ == "__main__":
    main()
