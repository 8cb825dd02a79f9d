"""Images made worse, as cameras and crowds make them: out of focus, moved, from afar, noisy, half hidden.

What each does is what `rendered/jerseys.py` paints into its test images, as an augmentation of any image. Hiding a
rectangle is random erasing (Zhong et al. 2020, arXiv:1708.04896).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from classifier_training.data.augmenting.transforms import DRAWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.data.augmenting.transforms import Transforms

LARGEST_SIGMA = 0.02
"""Of the blur, as a share of the shorter side."""

LONGEST_MOTION = 0.1
"""As a share of the width."""

SMALLEST_SCALE = 0.25

LARGEST_NOISE = 25.0
"""Standard deviation in levels of 0..255."""

ERASED_AREA = (0.02, 0.33)

ERASED_LOG_RATIO = math.log(3.3)


def degrade(pixels: NDArray[np.uint8], draws: NDArray[np.float64], transforms: Transforms) -> NDArray[np.uint8]:
    """Make an image worse in the order in which it happens: what stands in front, then the lens, then the sensor.

    Args:
        pixels: uint8 [H, W, 3].
        draws: float64 [len(DRAWS)] in [0, 1), the sample's random numbers.
        transforms: how probable each change is.

    Returns:
        uint8 [H, W, 3]; the image that came is left as it is.
    """
    drawn = dict(zip(DRAWS, draws.tolist(), strict=True))
    height, width = pixels.shape[:2]
    if drawn["erase"] < transforms.erase:
        pixels = _erase(pixels, drawn)
    if drawn["motion"] < transforms.motion_blur:
        pixels = move(pixels, 2 + int(drawn["motion_length"] * LONGEST_MOTION * width))
    if drawn["blur"] < transforms.blur:
        sigma = drawn["sigma"] * LARGEST_SIGMA * min(height, width)
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))
    if drawn["downscale"] < transforms.downscale:
        scale = SMALLEST_SCALE + (1 - SMALLEST_SCALE) * drawn["downscale_side"]
        small = max(1, round(width * scale)), max(1, round(height * scale))
        image = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    if drawn["noise"] < transforms.noise:
        generator = np.random.default_rng(int(drawn["noise_seed"] * 2**53))
        sigma = np.float32(LARGEST_NOISE * drawn["noise_level"])
        noisy = pixels + sigma * generator.standard_normal(pixels.shape, dtype=np.float32)
        pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return pixels


def move(pixels: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """Average each pixel with its neighbours on the row, `length` in all; the border is repeated."""
    before = (length - 1) // 2
    padded = np.pad(pixels, ((0, 0), (before + 1, length - 1 - before), (0, 0)), mode="edge")
    # The sum over a window is the difference of two sums from the start of the row.
    sums = padded.cumsum(axis=1, dtype=np.int64)
    found: NDArray[np.uint8] = np.rint((sums[:, length:] - sums[:, :-length]) / length).astype(np.uint8)
    return found


def _erase(pixels: NDArray[np.uint8], drawn: dict[str, float]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    smallest, largest = ERASED_AREA
    area = height * width * (smallest + (largest - smallest) * drawn["erase_area"])
    stretch = math.exp(ERASED_LOG_RATIO * (2 * drawn["erase_ratio"] - 1) / 2)
    tall = min(height, max(1, round(math.sqrt(area) * stretch)))
    wide = min(width, max(1, round(math.sqrt(area) / stretch)))
    top, left = round((height - tall) * drawn["erase_y"]), round((width - wide) * drawn["erase_x"])
    found = pixels.copy()
    found[top : top + tall, left : left + wide] = int(256 * drawn["erase_grey"])
    return found
