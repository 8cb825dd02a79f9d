"""Known changes of images, by which a change in use is recognized: what each does to the statistics is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLUR: Final = "blur"
NOISE: Final = "noise"
UNDEREXPOSED: Final = "underexposure"
OVEREXPOSED: Final = "overexposure"
LOW_CONTRAST: Final = "low contrast"

STRENGTHS: Final = {
    BLUR: (0.7, 1.5, 3.0),
    NOISE: (0.05, 0.1, 0.2),
    UNDEREXPOSED: (-1.0, -2.0, -4.0),
    OVEREXPOSED: (1.0, 2.0, 3.0),
    LOW_CONTRAST: (0.5, 0.25, 0.12),
}
"""Of each kind, weak to strong: deviation of the Gaussian blur in pixels, that of the noise as a
share of white, the change of exposure in stops, and what is left of the contrast."""

GAMMA = 2.2
"""Between the light and the levels of a file."""


def corrupt(pixels: NDArray[np.uint8], kind: str, strength: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Change images in one way.

    Args:
        pixels: uint8 [B, H, W, 3].
        kind: one of `STRENGTHS`.
        strength: in the unit of the kind.
        generator: of the noise.

    Returns:
        uint8 [B, H, W, 3]; the input is not changed.

    Raises:
        ValueError: for another kind.
    """
    if kind == BLUR:
        filtered = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(strength)) for image in pixels]
        return np.stack([np.asarray(image) for image in filtered])
    values = pixels.astype(np.float32) / np.float32(255)
    if kind == NOISE:
        values = values + np.float32(strength) * generator.standard_normal(values.shape, dtype=np.float32)
    elif kind in (UNDEREXPOSED, OVEREXPOSED):
        values = values * np.float32(2.0 ** (strength / GAMMA))
    elif kind == LOW_CONTRAST:
        mean = values.mean(axis=(1, 2, 3), keepdims=True)
        values = mean + np.float32(strength) * (values - mean)
    else:
        raise ValueError(f"no kind of change is called {kind}")
    changed: NDArray[np.uint8] = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return changed
