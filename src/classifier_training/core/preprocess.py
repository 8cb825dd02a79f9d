"""The one definition of what happens between a decoded picture and the network's input.

Training evaluation, prediction, export checks and the files we ship all execute this object, and it travels in the
checkpoint, the bundle and the ONNX file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Policy = Literal["squash", "crop", "letterbox"]
Kernel = Literal["bilinear", "bicubic", "area"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
_PADDING = (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop and normalise.

    Args:
        size: height and width of the result in pixels.
        policy: squash (stretch to the size), crop (shortest side to the size, centre cut out) or letterbox
            (longest side to the size, black bars).
        kernel: bilinear and bicubic are antialiased; area averages whole source pixels.
        mean: per RGB channel, of pixels scaled to 0..1.
        std: per RGB channel.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    policy: Policy = "squash"
    kernel: Kernel = "bilinear"

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Fit an upright RGB picture to the size: uint8 [H, W, 3]."""
        if self.policy == "crop":
            fitted = self._crop(image)
        elif self.policy == "letterbox":
            fitted = self._letterbox(image)
        else:
            fitted = self._resize(image, *self.size)
        return np.asarray(fitted, dtype=np.uint8)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scale to 0..1, subtract the mean, divide by std: uint8 [..., H, W, 3] -> float32 [..., 3, H, W]."""
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))

    def tensor(self, image: Image.Image) -> NDArray[np.float32]:
        """Return the network's input for an upright RGB picture: float32 [3, H, W]."""
        return self.normalize(self.pixels(image))

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote."""
        plain: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**plain)

    def _resize(self, image: Image.Image, height: int, width: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), _RESAMPLING[self.kernel])

    def _crop(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        scale = max(height / image.height, width / image.width)
        resized = self._resize(image, max(height, round(image.height * scale)), max(width, round(image.width * scale)))
        left, top = (resized.width - width) // 2, (resized.height - height) // 2
        return resized.crop((left, top, left + width, top + height))

    def _letterbox(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        scale = min(height / image.height, width / image.width)
        resized = self._resize(
            image,
            min(height, max(1, round(image.height * scale))),
            min(width, max(1, round(image.width * scale))),
        )
        canvas = Image.new("RGB", (width, height), _PADDING)
        canvas.paste(resized, ((width - resized.width) // 2, (height - resized.height) // 2))
        return canvas
