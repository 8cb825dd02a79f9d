"""One answer everywhere: Python's preprocessing and model.onnx against pipeline.onnx, over many images.

Every image of a folder is answered both ways, and with it five others cut from it or made of it: tall, wide, tiny,
a screen of 1080p and one of 4K.

    python scripts/bench/parity.py RUN SOURCE --images 2000
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from classifier_training.core.images import read_rgb
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import softmax
from classifier_training.data.index import is_image
from classifier_training.data.walk import Walker
from classifier_training.export.bundle import read_info
from classifier_training.export.pipeline import IMAGE_NAME, PIXELS_NAME, PROBABILITIES_NAME, with_pixels
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session

if TYPE_CHECKING:
    from collections.abc import Iterator

NUM_LARGE = 50
"""Images that are also answered at 1080p and 4K, which takes long."""


def shapes(image: Image.Image, *, large: bool) -> Iterator[tuple[str, Image.Image]]:
    """Yield an image and others made of it, with their kind."""
    width, height = image.size
    yield "as it is", image
    yield "tall", image.crop((0, 0, max(1, width // 10), height))
    yield "wide", image.crop((0, 0, width, max(1, height // 10)))
    yield "tiny", image.crop((0, 0, min(5, width), min(7, height)))
    if large:
        yield "1080p", image.resize((1920, 1080), Image.Resampling.BICUBIC)
        yield "4K", image.resize((3840, 2160), Image.Resampling.BICUBIC)


def main() -> None:
    """Print agreement and differences for each kind of image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--pictures", type=int, default=2000)
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.run)
    preprocessing = read_info(run_dir).preprocessing
    model = open_session(run_dir.onnx)
    pipeline = open_session(with_pixels(run_dir.pipeline, preprocessing.size))

    found: dict[str, list[tuple[bool, float, float]]] = defaultdict(list)
    paths = [
        path
        for path in map(Path, Walker(arguments.source.resolve()).files(arguments.source.resolve()))
        if is_image(path)
    ][: arguments.pictures]
    for number, path in enumerate(paths):
        for kind, image in shapes(read_rgb(path), large=number < NUM_LARGE):
            (logits,) = model.run([OUTPUT_NAME], {INPUT_NAME: preprocessing.tensor(image)[None]})
            expected = softmax(logits[0])
            shares, pixels = pipeline.run([PROBABILITIES_NAME, PIXELS_NAME], {IMAGE_NAME: np.asarray(image)})
            wanted = preprocessing.pixels(image).transpose(2, 0, 1).astype(np.float32)
            found[kind].append(
                (
                    bool(shares.argmax() == expected.argmax()),
                    float(np.abs(shares - expected).max()),
                    float(np.abs(pixels[0] - wanted).max()),
                )
            )
    print(f"{preprocessing}")
    for kind, rows in found.items():
        agreed, differences, pixel_differences = zip(*rows, strict=True)
        print(
            f"{kind:<9} {len(rows):6,} images: top-1 agreement {np.mean(agreed):.3%}, probabilities up to "
            f"{max(differences):.1e} apart, pixels up to {max(pixel_differences):g} of 255"
        )
    everything = [row for rows in found.values() for row in rows]
    print(f"all       {len(everything):6,} images: top-1 agreement {np.mean([row[0] for row in everything]):.3%}")


if __name__ == "__main__":
    main()
