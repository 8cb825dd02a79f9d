"""Time of an analysis, and how many planted copies it finds: 64-px images, and photographs with planted twins.

The photographs are crops of scikit-learn's two, side by side without overlap, as they are, turned and mirrored, beside
rendered textures with the spectrum of photographs. A tenth has a twin: the same bytes, JPEG at quality 70, half the
size, or 15 % brighter. False alarms are counted among the others.

python scripts/bench/analyze.py --images 20000
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from classifier_training.core.runtime import num_cores
from classifier_training.data.checking.duplicates import MIN_CONTRAST, details, find_copies
from classifier_training.data.checking.scan import scan_files

if TYPE_CHECKING:
    from collections.abc import Iterator

CELL = 40
TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.TRANSVERSE)
KINDS = ("exact", "jpeg70", "half", "brighter")
NUM_CLASSES = 10


def crops(side: int) -> Iterator[Image.Image]:
    """Yield parts of the two photographs that do not overlap, each in four positions."""
    for pixels in load_sample_images().images:
        photograph = Image.fromarray(pixels)
        for top in range(0, photograph.height - CELL + 1, CELL):
            for left in range(0, photograph.width - CELL + 1, CELL):
                part = photograph.crop((left, top, left + CELL, top + CELL)).resize((side, side))
                yield from (part if turn is None else part.transpose(turn) for turn in TURNS)


def textures(side: int, seed: int) -> Iterator[Image.Image]:
    """Yield noise whose amplitude falls with the frequency, as in photographs."""
    random = np.random.default_rng(seed)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    radius[0, 0] = 1
    while True:
        spectrum = np.fft.fft2(random.normal(size=(3, side, side))) * radius ** -random.uniform(0.5, 2)
        noise = np.fft.ifft2(spectrum).real.transpose(1, 2, 0)
        noise = noise / noise.std() * random.uniform(15, 60) + random.uniform(60, 190)
        yield Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))


def write_twin(image: Image.Image, original: Path, kind: str) -> Path:
    """Write the changed copy beside its original."""
    path = original.with_name(f"{original.stem}_{kind}{'.jpg' if kind == 'jpeg70' else '.png'}")
    if kind == "exact":
        shutil.copyfile(original, path)
    elif kind == "jpeg70":
        image.save(path, quality=70)
    elif kind == "half":
        image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS).save(path)
    else:
        Image.fromarray(np.clip(np.asarray(image) * 1.15, 0, 255).astype(np.uint8)).save(path)
    return path


def make(folder: Path, number: int, side: int) -> dict[str, tuple[str, str]]:
    """Write the images; returns the original and kind of each twin, by relative path."""
    for label in range(NUM_CLASSES):
        (folder / str(label)).mkdir(parents=True)
    cut, rendered = crops(side), textures(side, seed=0)
    twins: dict[str, tuple[str, str]] = {}
    for count in range(number - number // 11):
        image = next(cut, None) or next(rendered)
        path = folder / str(count % NUM_CLASSES) / f"{count:06d}.png"
        image.save(path, compress_level=1)
        if count % 10 == 0 and len(twins) < number // 11:
            kind = KINDS[count // 10 % len(KINDS)]
            twin = write_twin(image, path, kind)
            twins[twin.relative_to(folder).as_posix()] = (path.relative_to(folder).as_posix(), kind)
    return twins


def measure_recall(folder: Path, twins: dict[str, tuple[str, str]]) -> None:
    """Print recall by kind and the false alarms."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    scan = scan_files(folder, paths, num_workers=num_cores())
    started = time.perf_counter()
    copies = find_copies(scan)
    print(f"search for copies among {len(paths):,}: {time.perf_counter() - started:.1f} s")
    contrast = dict(zip(paths, details(np.asarray(scan.thumbnails)).std(axis=1), strict=True))
    linked = {
        frozenset((paths[one], paths[other]))
        for group in (*copies.exact, *copies.near)
        for one, other in combinations(group, 2)
    }
    found, planted = Counter[str](), Counter[str]()
    for twin, (original, kind) in twins.items():
        for key in (kind, *([f"{kind}, textured"] if contrast[original] >= MIN_CONTRAST else [])):
            planted[key] += 1
            found[key] += frozenset((twin, original)) in linked
    for key in sorted(planted):
        print(f"  {key:<20} {found[key]:>6,} of {planted[key]:>6,} found: {found[key] / planted[key]:.2%}")
    partners = defaultdict(set)
    for pair in linked:
        one, other = pair
        partners[one].add(other)
        partners[other].add(one)
    involved = {*twins, *(original for original, _ in twins.values())}
    alone = [path for path in paths if path not in involved]
    alarms = sum(bool(partners[path]) for path in alone)
    print(f"  false alarms         {alarms:>6,} of {len(alone):>6,} without a twin: {alarms / len(alone):.2%}")


def main() -> None:
    """Print time, recall and false alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        twins = make(folder, options.images, options.side)
        words = [
            sys.executable,
            "-m",
            "classifier_training",
            "analyze",
            f"data.root={folder}",
            f"output={scratch}/report",
        ]
        started = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        size = (Path(scratch) / "report" / "report.html").stat().st_size / 1e6
        print(f"analyze, {options.images:,} images of {options.side} px, {num_cores()} cores: {seconds:.1f} s")
        print(f"page: {size:.1f} MB")
        measure_recall(folder, twins)


if __name__ == "__main__":
    main()
