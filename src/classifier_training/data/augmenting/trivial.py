"""TrivialAugment: one operation an image, drawn evenly, with a strength drawn evenly (arXiv:2103.10158).

Operations and strengths are those of torchvision's `TrivialAugmentWide`, which draws them from torch's global
generator; here they follow from the sample's random numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from classifier_training.data.augmenting.transforms import DRAWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BILINEAR = InterpolationMode.BILINEAR

NUM_STRENGTHS = 31

LARGEST_SHIFT = 32
"""Pixels; in images of less than 64, half of the side, or nothing would be left of them."""


def _shear(image: Image.Image, strength: float, *, across: bool) -> Image.Image:
    degrees = math.degrees(math.atan(0.99 * strength))
    shear = [degrees, 0.0] if across else [0.0, degrees]
    found: Image.Image = functional.affine(image, 0.0, [0, 0], 1.0, shear, BILINEAR, center=[0, 0])
    return found


def _shift(image: Image.Image, strength: float, *, across: bool) -> Image.Image:
    largest = min(LARGEST_SHIFT, (image.width if across else image.height) / 2)
    pixels = int(largest * strength)
    found: Image.Image = functional.affine(
        image, 0.0, [pixels, 0] if across else [0, pixels], 1.0, [0.0, 0.0], BILINEAR
    )
    return found


# Strengths run from 0 to 1; those of the operations that go both ways from -1 to 1.
OPERATIONS: dict[str, tuple[Callable[[Image.Image, float], Image.Image], bool]] = {
    "Identity": (lambda image, _: image, False),
    "ShearX": (lambda image, s: _shear(image, s, across=True), True),
    "ShearY": (lambda image, s: _shear(image, s, across=False), True),
    "TranslateX": (lambda image, s: _shift(image, s, across=True), True),
    "TranslateY": (lambda image, s: _shift(image, s, across=False), True),
    "Rotate": (lambda image, s: functional.rotate(image, 135 * s, BILINEAR), True),
    "Brightness": (lambda image, s: functional.adjust_brightness(image, 1 + 0.99 * s), True),
    "Color": (lambda image, s: functional.adjust_saturation(image, 1 + 0.99 * s), True),
    "Contrast": (lambda image, s: functional.adjust_contrast(image, 1 + 0.99 * s), True),
    "Sharpness": (lambda image, s: functional.adjust_sharpness(image, 1 + 0.99 * s), True),
    "Posterize": (lambda image, s: functional.posterize(image, 8 - round(6 * s)), False),
    "Solarize": (lambda image, s: functional.solarize(image, 255 * (1 - s)), False),
    "AutoContrast": (lambda image, _: functional.autocontrast(image), False),
    "Equalize": (lambda image, _: functional.equalize(image), False),
}
"""Name to operation and whether it goes both ways."""


def trivial_augment(pixels: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Change an image, uint8 [H, W, 3], by the operation that its random numbers, float64 [len(DRAWS)], choose."""
    drawn = dict(zip(DRAWS, draws.tolist(), strict=True))
    name = tuple(OPERATIONS)[int(drawn["trivial"] * len(OPERATIONS))]
    strength = int(drawn["strength"] * NUM_STRENGTHS) / (NUM_STRENGTHS - 1)
    return operate(pixels, name, -strength if OPERATIONS[name][1] and drawn["sign"] < 0.5 else strength)


def operate(pixels: NDArray[np.uint8], name: str, strength: float) -> NDArray[np.uint8]:
    """Change an image, uint8 [H, W, 3], by an operation of a strength from 0, or -1, to 1."""
    operation, _ = OPERATIONS[name]
    # Pillow's arithmetic takes a tenth of the time of torch's here.
    return np.asarray(operation(Image.fromarray(pixels), strength))
