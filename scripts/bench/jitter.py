"""Colour jitter of single images with torchvision on Pillow, against ours on a batch, in turn, on one core each.

python scripts/bench/jitter.py --repeats 7
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

# The samples of a batch are shared out among the cores that this process may use.
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import ColorJitter

from classifier_training.core.types import SampleKey
from classifier_training.data.augmenting.augment import Changes
from classifier_training.data.augmenting.images import jitter
from classifier_training.data.augmenting.transforms import Transforms, draw_uniforms

STRENGTH = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
BATCH_SIZE = 64


def one_by_one(images: torch.Tensor, uniforms: torch.Tensor, transforms: Transforms) -> None:
    """Do what loading does on the CPU with large images."""
    changes = Changes(uniforms, transforms, *images.shape[2:])
    out = torch.empty(images.shape, dtype=torch.uint8)
    for row, image in enumerate(images):
        changes.apply_one(row, image, out[row])


def main() -> None:
    """Measure in turn and print images a second and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = options.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, size, size, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in pixels]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    draws = np.stack([draw_uniforms(0, SampleKey(0, row, row)) for row in range(BATCH_SIZE)])
    uniforms = torch.from_numpy(draws).float()
    theirs = ColorJitter(**STRENGTH)
    ours = Transforms(crop_scale=1.0, **STRENGTH)  # type: ignore[arg-type]
    opencv = Transforms(crop_scale=1.0, backend="opencv", **STRENGTH)  # type: ignore[arg-type]
    candidates = {
        "Pillow": lambda: [np.asarray(theirs(picture)) for picture in pictures],
        "ours": lambda: one_by_one(images, uniforms, ours),
        "ours, transforms.backend=opencv": lambda: [
            jitter(one, own, opencv) for one, own in zip(pixels, draws, strict=True)
        ],
    }
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(options.repeats + 1):
        for name, work in candidates.items():
            started = time.perf_counter()
            work()  # type: ignore[no-untyped-call]
            if repeat:  # the first is for warming up
                rates[name].append(BATCH_SIZE / (time.perf_counter() - started))
    print(f"{size} px, one core, n {options.repeats} batches of {BATCH_SIZE}")
    for name, found in rates.items():
        ratios = [mine / base for mine, base in zip(found, rates["Pillow"], strict=True)]
        print(
            f"{name:<32} {statistics.median(found):7.0f} images/s ({min(found):.0f} to {max(found):.0f}), "
            f"{statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
