"""Lay images of a run out as one, for the README.

python scripts/docs/picture.py outputs/2026-11-20/10-30-00 docs/run.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDTH, GAP = 1400, 16


def fit(path: Path, width: int) -> Image.Image:
    """Read an image and make it so many pixels wide."""
    image = Image.open(path).convert("RGB")
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def main() -> None:
    """Two rows: curves beside the confusion matrix, samples beside the class counts."""
    run, output = Path(sys.argv[1]), Path(sys.argv[2])
    last = max(run.glob("epoch_*"))
    half = (WIDTH - 3 * GAP) // 2
    left = [fit(run / "training_history/accuracy.png", half), fit(run / "dataset/sampler_draws.png", half)]
    right = [fit(run / "evaluation/confusion_matrix.png", half), fit(last / "sample_predictions.png", half)]
    height = max(sum(image.height + GAP for image in column) for column in (left, right)) + GAP
    canvas = Image.new("RGB", (WIDTH, height), "white")
    for x, column in ((GAP, left), (2 * GAP + half, right)):
        y = GAP
        for image in column:
            canvas.paste(image, (x, y))
            y += image.height + GAP
    # Few colours make a small file, and plots have few.
    canvas.quantize(256).save(output, optimize=True)


if __name__ == "__main__":
    main()
