"""The definition of everything between an image file and the network's input.

Training evaluation, prediction, calibration, export checks and the files we ship all execute this object, and it
travels in the checkpoint, the bundle and the ONNX files. `export/pipeline.py` implements the same in ONNX operators.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from classifier_training.core.errors import UserError, require_extra
from classifier_training.core.images import FULL_RANGE, read_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Policy = Literal["squash", "crop", "letterbox"]
Kernel = Literal["bilinear", "bicubic", "area"]
Backend = Literal["pillow", "opencv"]
ChannelOrder = Literal["rgb", "bgr"]

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}
"""Pillow's filters. All are antialiased: when an image shrinks, they reach over all pixels that become one."""

PADDING = 0
"""Value of the bars beside a letterboxed image, in all channels."""


class Geometry(NamedTuple):
    """Position of a resized image in the input.

    Args:
        height: of the resized image.
        width: of the resized image.
        top: rows cut off above it, or if negative, rows of padding.
        left: columns cut off beside it, or if negative, columns of padding.
    """

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, crop and normalize.

    Args:
        size: height and width of the result in pixels.
        mean: of red, green and blue, of pixels scaled to 0..1.
        std: of red, green and blue.
        policy: squash (stretch to the size), crop (shortest side to the size, centre cut out) or letterbox
            (longest side to the size, black bars).
        kernel: bilinear and bicubic are antialiased; area averages source pixels.
        backend: library that resizes: pillow, or opencv (INTER_AREA, so only with kernel area).
        channel_order: of the network's input, after normalization.
        max_value: white of grey samples of more than 8 bits if a file does not state it; see `images.to_rgb`.

    Raises:
        UserError: for a kernel that the backend does not have.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    policy: Policy = "squash"
    kernel: Kernel = "bilinear"
    backend: Backend = "pillow"
    channel_order: ChannelOrder = "rgb"
    max_value: int = FULL_RANGE

    def __post_init__(self) -> None:
        choose_kernel(self.backend, self.kernel)

    def read(self, path: Path | str, content: bytes | OSError | None = None) -> Image.Image:
        """Decode a file, whose content may have been fetched, to an upright RGB image of 8 bits; see `read_rgb`.

        Raises:
            UnreadableImageError: when the file cannot be decoded.
        """
        return read_rgb(path, max_value=self.max_value, content=content)

    def geometry(self, height: int, width: int) -> Geometry:
        """Return the position of an image of this height and width."""
        target_height, target_width = self.size
        if self.policy == "squash":
            return Geometry(target_height, target_width, 0, 0)
        scales = target_height / height, target_width / width
        scale = max(scales) if self.policy == "crop" else min(scales)
        resized_height, resized_width = round(height * scale), round(width * scale)
        if self.policy == "crop":
            resized_height, resized_width = max(target_height, resized_height), max(target_width, resized_width)
            return Geometry(
                resized_height,
                resized_width,
                (resized_height - target_height) // 2,
                (resized_width - target_width) // 2,
            )
        resized_height = min(target_height, max(1, resized_height))
        resized_width = min(target_width, max(1, resized_width))
        return Geometry(
            resized_height,
            resized_width,
            -((target_height - resized_height) // 2),
            -((target_width - resized_width) // 2),
        )

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Fit an upright RGB image to the size: uint8 [H, W, 3], RGB."""
        place = self.geometry(image.height, image.width)
        return self.cut(self.resize(image, place.height, place.width), place)

    def cut(self, resized: NDArray[np.uint8], place: Geometry) -> NDArray[np.uint8]:
        """Crop or pad resized pixels: uint8 [place.height, place.width, 3] -> [H, W, 3]."""
        target_height, target_width = self.size
        if (place.height, place.width) == self.size:
            return resized
        if self.policy == "crop":
            return resized[place.top : place.top + target_height, place.left : place.left + target_width]
        canvas = np.full((target_height, target_width, 3), PADDING, dtype=np.uint8)
        canvas[-place.top : place.height - place.top, -place.left : place.width - place.left] = resized
        return canvas

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's input of resized pixels: uint8 [..., H, W, 3] -> float32 [..., 3, H, W].

        Scale to 0..1, subtract the mean, divide by std, put the channels in the network's order.
        """
        step = 1 if self.channel_order == "rgb" else -1
        mean, std = (np.array(values[::step], dtype=np.float32)[:, None, None] for values in (self.mean, self.std))
        # Channel by channel, in place: three times as fast as on pixels whose channels lie side by side.
        values = np.moveaxis(pixels[..., ::step], -1, -3).astype(np.float32, order="C")
        values /= np.float32(255)
        values -= mean
        values /= std
        return values

    def tensor(self, image: Image.Image) -> NDArray[np.float32]:
        """Return the network's input for an upright RGB image: float32 [3, H, W]."""
        return self.normalize(self.pixels(image))

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes into JSON; `max_value` only if it is not the default."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        if self.max_value == FULL_RANGE:
            del values["max_value"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote."""
        plain: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**plain)

    def resize(self, image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
        """Resize an upright RGB image with the kernel and the backend: uint8 [height, width, 3]."""
        if image.size == (width, height):
            return np.asarray(image)
        if self.backend == "pillow":
            # One side after the other, width first. Pillow does so too, but since 13.0 begins with the height for some
            # shapes; as it rounds and clips in between, the result would depend on its version.
            narrowed = image.resize((width, image.height), RESAMPLING[self.kernel])
            return np.asarray(narrowed.resize((width, height), RESAMPLING[self.kernel]))
        cv2 = import_opencv()
        return np.asarray(cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def choose_kernel(backend: Backend, kernel: Kernel | None) -> Kernel:
    """Return the kernel, or the backend's default if it is None.

    Raises:
        UserError: for a kernel that the backend does not have.
    """
    if backend == "pillow":
        return kernel or "bilinear"
    if kernel not in (None, "area"):
        raise UserError(
            f"transforms.backend=opencv with transforms.kernel={kernel}",
            "area: OpenCV's other kernels are not antialiased and lose detail when an image shrinks",
            "leave transforms.kernel out, or choose transforms.backend=pillow",
        )
    return "area"


@functools.cache
def import_opencv(purpose: str = "transforms.backend=opencv") -> Any:
    """Return OpenCV's module.

    Args:
        purpose: what needs it, for the message.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise require_extra("OpenCV", extra="opencv", purpose=purpose) from error
    # Images are processed in parallel already; OpenCV's threads would compete for the same cores.
    cv2.setNumThreads(1)
    return cv2
