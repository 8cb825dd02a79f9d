"""Colour jitter in OpenCV's arithmetic, for `transforms.backend=opencv`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.preprocess import import_opencv
from classifier_training.data.augmenting.transforms import DRAWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.data.augmenting.transforms import Transforms

NUM_HUES = 180
"""OpenCV keeps a hue of 0..360 degrees as 0..179 in eight bits."""


def jitter(pixels: NDArray[np.uint8], draws: NDArray[np.float64], transforms: Transforms) -> NDArray[np.uint8]:
    """Change brightness and contrast in RGB, then saturation and hue in HSV.

    Everything is a table of 256 entries that OpenCV looks up: whatever the strength, the cost is that of four passes
    over the bytes.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        draws: float64 [len(DRAWS)] in [0, 1), the sample's random numbers.
        transforms: how far each change may go.

    Returns:
        uint8 [H, W, 3].
    """
    cv2 = import_opencv()
    signed = dict(zip(DRAWS, 2 * draws - 1, strict=True))
    levels = np.arange(256, dtype=np.float64)
    if transforms.brightness or transforms.contrast:
        brightness = 1 + transforms.brightness * signed["brightness"]
        contrast = 1 + transforms.contrast * signed["contrast"]
        grey = float(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0])
        pixels = cv2.LUT(pixels, _table(brightness * (contrast * (levels - grey) + grey)))
    if transforms.saturation or transforms.hue:
        saturation = 1 + transforms.saturation * signed["saturation"]
        turned = np.round(levels + NUM_HUES * transforms.hue * signed["hue"]) % NUM_HUES
        tables = np.stack([_table(turned), _table(levels * saturation), _table(levels)], axis=-1)
        hsv = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), tables[None])
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return pixels


def _table(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.round(values), 0, 255), dtype=np.uint8)
