"""The size and form in which decoded images are kept, in memory and in the store.

For evaluation it is the exact result of the preprocessing. For training with random crops, an image is shrunk once, so
far that the smallest crop still has as many pixels as the network's input; it is never enlarged. Crops are taken from
these pixels whether they were just decoded or come from the store, so a store changes no pixel.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import PIL
from PIL import Image

from classifier_training.core.preprocess import import_opencv

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing

FORMAT_VERSION = 2
"""Of the files in the store; pixels of another version are decoded again."""

MAX_LOG_RATIO = math.log(4 / 3)
"""Random crops are stretched by up to 4:3 either way, as in Szegedy et al. 2015 (arXiv:1409.4842)."""

JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How a decoded image becomes the kept pixels.

    Args:
        preprocessing: what evaluation does to an image.
        crop_scale: smallest share of the area that a random crop takes; 1 where nothing is cropped.
        jpeg: whether the store compresses pixels as JPEG, to take less space.
    """

    preprocessing: Preprocessing
    crop_scale: float = 1.0
    jpeg: bool = False

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the kept pixels of an image of this height and width."""
        if self.crop_scale == 1:
            return self.preprocessing.size
        # A crop's side is that of the image times sqrt(share), times the stretch, which may be 1 / sqrt(4/3).
        margin = math.exp(MAX_LOG_RATIO / 2) / math.sqrt(self.crop_scale)
        sides = math.ceil(self.preprocessing.size[0] * margin), math.ceil(self.preprocessing.size[1] * margin)
        place = replace(self.preprocessing, size=sides).geometry(height, width)
        if self.preprocessing.policy == "squash":
            return min(height, place.height), min(width, place.width)
        return (place.height, place.width) if place.height < height and place.width <= width else (height, width)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the kept pixels of an upright RGB image: uint8 [h, w, 3]."""
        if self.crop_scale == 1:
            return self.preprocessing.pixels(image)
        return self.preprocessing.resize(image, *self.shape(image.height, image.width))

    def restored(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return pixels as a store returns them, so that the first epoch sees the same as later ones."""
        return decode(encode(pixels)) if self.jpeg else pixels

    def encoded(self, pixels: NDArray[np.uint8]) -> bytes | memoryview:
        """Return kept pixels as a store writes them: the bytes themselves, or a JPEG."""
        return encode(pixels) if self.jpeg else np.ascontiguousarray(pixels).data.cast("B")

    def read(self, path: Path | str, content: bytes | OSError | None = None) -> NDArray[np.uint8]:
        """Decode a file, whose content may have been fetched, and return its kept pixels.

        Raises:
            UnreadableImageError: when the file cannot be decoded.
        """
        return self.pixels(self.preprocessing.read(path, content))

    def fingerprint(self) -> str:
        """Hash of everything that the kept pixels depend on except the files; 16 hexadecimal digits."""
        fit = self.preprocessing
        decides = {
            "format": FORMAT_VERSION,
            "size": fit.size,
            "policy": fit.policy,
            "kernel": fit.kernel,
            "backend": fit.backend,
            "max_value": fit.max_value,
            "crop_scale": self.crop_scale,
            "jpeg": JPEG_QUALITY if self.jpeg else None,
            "pillow": PIL.__version__,
            "opencv": import_opencv().__version__ if fit.backend == "opencv" else None,
        }
        return blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=8).hexdigest()


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels as JPEG, with colours in full resolution."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def decode(blob: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a JPEG from `encode`, uint8 [h, w, 3]."""
    with Image.open(io.BytesIO(blob), formats=("JPEG",)) as image:
        return np.asarray(image)
