"""Time and memory of finding near duplicates, and how many of all pairs within reach are proposed.

The images are blends of real thumbnails of a folder, or of waves where none is given; one in twenty is a near duplicate
of another. Seconds are those of processors. Pairs are checked against all others for up to 2,000 of the images.

python scripts/bench/duplicates.py --images 20000 200000 --photos /my/images
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.data.checking import duplicates
from classifier_training.data.checking.scan import THUMBNAIL, FileFacts, FileScan, scan_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_CHECKED = 2000
BLOCK = 20_000
SIDES = (32, 64, 320)


def base_images(photos: Path | None) -> NDArray[np.float32]:
    """Thumbnails to blend [M, 32, 32, 3]."""
    if photos is not None:
        paths = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*") if path.is_file())
        scan = scan_files(photos, paths, num_workers=1)
        return scan.thumbnails[[not fact.error for fact in scan.facts]].astype(np.float32)
    random = np.random.default_rng(0)
    steps = np.hypot(np.fft.fftfreq(THUMBNAIL)[:, None], np.fft.fftfreq(THUMBNAIL)) * THUMBNAIL
    noise = np.fft.fft2(random.normal(size=(3000, 3, THUMBNAIL, THUMBNAIL))) / np.maximum(steps, 1)
    waves = np.fft.ifft2(noise).real
    return np.asarray(128 + 50 * waves / waves.std(axis=(1, 2, 3), keepdims=True), np.float32).transpose(0, 2, 3, 1)


def make(number: int, base: NDArray[np.float32], file: Path) -> NDArray[np.uint8]:
    """Draw thumbnails into a file: blends of two images, one of them mirrored and shifted."""
    random = np.random.default_rng(0)
    found = np.lib.format.open_memmap(file, "w+", np.uint8, (number, THUMBNAIL, THUMBNAIL, 3))
    for first in range(0, number, BLOCK):
        size = min(BLOCK, number - first)
        one, other = base[random.integers(0, len(base), (2, size))]
        columns = (np.arange(THUMBNAIL)[::-1] + random.integers(-6, 7, size)[:, None]) % THUMBNAIL
        other = np.take_along_axis(other, columns[:, None, :, None], axis=2)
        share = random.uniform(0.35, 0.65, (size, 1, 1, 1)).astype(np.float32)
        blend = share * one + (1 - share) * other
        blend += 0.4 * (blend - blend.mean(axis=(1, 2, 3), keepdims=True))
        copies = np.flatnonzero(random.random(size) < 0.05)
        gains = random.uniform(0.9, 1.1, (len(copies), 1, 1, 1))
        noise = random.normal(0, 2, (len(copies), THUMBNAIL, THUMBNAIL, 3))
        blend[copies] = gains * blend[random.integers(0, size, len(copies))] + noise
        found[first : first + size] = blend.clip(0, 255).round()
    return found


def run(thumbnails: NDArray[np.uint8], *, checks: bool) -> None:
    """Find the duplicates, and print seconds, memory and what was found."""
    number, random = len(thumbnails), np.random.default_rng(1)
    facts = [
        FileFacts(f"{place}.png", width=side, height=side, file_hash=place.to_bytes(16), pixel_hash=place.to_bytes(16))
        for place, side in enumerate(random.choice(SIDES, number).tolist())
    ]
    scan = FileScan(Path(), facts, thumbnails)
    before = sum(os.times()[:4])
    copies = duplicates.find_copies(scan)
    seconds = sum(os.times()[:4]) - before
    anonymous = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{number:>10,} images  {seconds:8.1f} s, at most {anonymous:,.0f} MiB with mapped files, "
          f"{len(copies.near):,} groups of {sum(map(len, copies.near)):,}", flush=True)  # fmt: skip
    if checks:
        check(thumbnails)
    print(seconds)


def check(thumbnails: NDArray[np.uint8]) -> None:
    """Compare the proposed pairs with all pairs of some images."""
    number = len(thumbnails)
    points = np.concatenate(
        [duplicates.low_frequencies(duplicates.details(thumbnails[at : at + 4096])) for at in range(0, number, 4096)]
    )
    keys = np.unique(np.sort(duplicates.propose(points), axis=1) @ np.array([number, 1]))
    checked, distances = [], []
    for first in range(0, min(NUM_CHECKED, number), 250):
        products = points[first : first + 250] @ points.T
        one, other = np.nonzero(products >= 1 - duplicates.MAX_DISTANCE**2 / 2)
        distances.append(np.sqrt(np.maximum(2 - 2 * products[one, other], 0))[one + first != other])
        pairs = np.sort(np.stack([one + first, other], axis=1)[one + first != other], axis=1)
        checked.append(pairs @ np.array([number, 1]))
    is_found, away = np.isin(np.concatenate(checked), keys), np.concatenate(distances)
    for low, high in ((0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4)):
        chosen = (away > low) & (away <= high)
        print(f"{'':>12}distance {low} to {high}: {is_found[chosen].mean():.3f} of {chosen.sum():,} pairs proposed")


def main() -> None:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--photos", type=Path, help="folder of images to blend")
    parser.add_argument("--no-check", action="store_true", help="do not compare with all pairs")
    parser.add_argument("--thumbnails", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.thumbnails:
        run(np.load(options.thumbnails, mmap_mode="r"), checks=not options.no_check)
        return
    base, seconds = base_images(options.photos), []
    for number in options.images:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "thumbnails.npy"
            make(number, base, file)
            words = [sys.executable, __file__, f"--thumbnails={file}", *(["--no-check"] if options.no_check else [])]
            done = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
        print("\n".join(done[:-1]), flush=True)
        seconds.append(float(done[-1]))
    if len(seconds) > 1:
        span = math.log(options.images[-1] / options.images[0])
        print(f"slope {math.log(seconds[-1] / seconds[0]) / span:.2f}")


if __name__ == "__main__":
    main()
