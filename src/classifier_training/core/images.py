"""Reading image files: one function from a path to upright 8-bit RGB.

Training, prediction, figures and export checks all read pixels through this module, so that they see the same.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from classifier_training.core.errors import UserError
from classifier_training.core.image_files import UnreadableImageError, open_file, open_header, open_image, words

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.image_files import File

FULL_RANGE = 65535
"""White of grey samples of more than 8 bits, unless the file or the user states another value."""

ORIENTATION = 274
"""Tag of the EXIF orientation."""

TIFF_BITS, TIFF_LARGEST = 258, (341, 281)
"""Tags of the bits per sample, and of the largest value of a sample."""

MAX_CHUNKS = 100
"""Most chunks of a PNG that are searched for sBIT."""


def read_size(path: Path | str) -> tuple[int, int]:
    """Return width and height from the file's header, as stored (before EXIF orientation).

    Raises:
        UnreadableImageError: when there is no such file or it is no image.
    """
    with open_image(path) as image:
        return image.size


class Header(NamedTuple):
    """What a file's header states about its pixels.

    Args:
        width: in pixels, as stored.
        height: in pixels, as stored.
        lacks_range: whether it has grey samples of more than 8 bits and does not state which value is white.
        is_cut: whether it has colours of more than 8 bits, of which the upper 8 are read.
    """

    width: int
    height: int
    lacks_range: bool
    is_cut: bool


def read_header(path: Path | str, content: bytes | OSError | None = None) -> Header:
    """Read a file's header.

    Args:
        path: of the file.
        content: see `read_rgb`.

    Raises:
        UnreadableImageError: when there is no such file or it is no image.
    """
    return read_start(path, 0, content)[0]


def read_start(path: Path | str, num_bytes: int, content: bytes | OSError | None = None) -> tuple[Header, bytes]:
    """Read a file's header and its first bytes; see `read_header`."""
    with open_file(path, content) as file:
        start = file.read(num_bytes)
        with open_header(path, file) as image:
            try:
                lacks_range = _is_deep(image) and _declared_max(image) is None
                return Header(image.width, image.height, lacks_range, _is_cut(image)), start
            except Exception as error:  # see read_rgb
                raise UnreadableImageError(path, f"the image is damaged ({words(error)})") from error


def read_peak(path: Path | str) -> int:
    """Return the largest grey sample of a file, as it is stored.

    Raises:
        UnreadableImageError: see `read_rgb`.
    """
    with open_image(path) as image:
        try:
            return int(np.asarray(image).max())
        except Exception as error:  # see read_rgb
            raise UnreadableImageError(path, f"the image is damaged ({words(error)})") from error


def read_rgb(
    path: Path | str, *, max_value: int | None = FULL_RANGE, content: bytes | OSError | None = None
) -> Image.Image:
    """Decode an image: the first frame, EXIF orientation applied, transparency on white, more than 8 bits scaled to 8.

    Args:
        path: of the file.
        max_value: white of grey samples of more than 8 bits, see `to_rgb`.
        content: of the file, or why it cannot be read, where it was fetched with others; see `places.read_many`.

    Raises:
        UnreadableImageError: when the file is missing, no image, damaged, cut short or too large.
    """
    with open_image(path, content) as image:
        return _decoded(path, image, max_value)


def _decoded(path: Path | str, image: Image.Image, max_value: int | None) -> Image.Image:
    try:
        return to_rgb(image, max_value=max_value)
    except UnreadableImageError:
        raise
    except Exception as error:  # on hostile bytes, decoders raise any exception
        raise UnreadableImageError(path, f"the image is damaged ({words(error)})") from error


@dataclass(frozen=True)
class Preview:
    """An image decoded for display, and properties of its file.

    Args:
        image: upright RGB, possibly smaller than the file's.
        width: in pixels, as stored.
        height: in pixels, as stored.
        mode: Pillow's name for the stored pixels: L, RGB, RGBA, P, I;16, ...
        orientation: EXIF tag 274; 1 is upright.
        num_frames: 1 unless animated.
        peak: largest grey sample of more than 8 bits if the file does not state which value is white; else None.
        is_cut: whether it has colours of more than 8 bits, of which the upper 8 are read.
    """

    image: Image.Image
    width: int
    height: int
    mode: str
    orientation: int
    num_frames: int
    peak: int | None
    is_cut: bool


def read_preview(path: Path | str, *, min_side: int, content: bytes | OSError | None = None) -> Preview:
    """Decode an image for display; a JPEG's decoder may shrink it as long as both sides stay above `min_side`.

    As `read_rgb`, but grey samples of more than 8 bits are scaled by their own range.

    Raises:
        UnreadableImageError: see `read_rgb`.
    """
    with open_image(path, content) as image:
        try:
            # First, because later calls may read the pixels, after which Pillow closes the file.
            is_cut, declared = _is_cut(image), _declared_max(image)
            (width, height), mode = image.size, image.mode
            orientation = _orientation(image)
            num_frames = int(getattr(image, "n_frames", 1))
            image.draft(None, (min_side, min_side))
            upright = _to_rgb(image, declared, None)
            peak = int(np.asarray(image).max()) if _is_deep(image) and declared is None else None
        except UnreadableImageError:
            raise
        except Exception as error:  # see read_rgb
            raise UnreadableImageError(path, f"the image is damaged ({words(error)})") from error
    return Preview(upright, width, height, mode, orientation, num_frames, peak, is_cut)


def to_rgb(image: Image.Image, *, max_value: int | None = FULL_RANGE) -> Image.Image:
    """Convert an opened image to RGB without the losses of a bare `convert`, EXIF orientation applied.

    White of grey samples of more than 8 bits is, in this order: what the file states (a TIFF's bits per sample or
    largest value, if it is one less than a power of two; a PNG's significant bits, if the samples were not scaled to 16
    bits as PNG demands); `max_value`. Larger samples are white, too.

    Args:
        image: as Pillow opened it.
        max_value: used if the file states nothing; None for the largest value with as many bits as the largest sample,
            for display only.

    Raises:
        ValueError: for pixels whose range is not known (32-bit integers past 16 bits, floats).
    """
    return _to_rgb(image, _declared_max(image), max_value)


def rgb_of(image: Image.Image | NDArray[Any] | bytes, *, max_value: int | None = FULL_RANGE) -> Image.Image:
    """Convert an image in memory to RGB.

    Args:
        image: opened by Pillow; the bytes of a file; or pixels [H, W], [H, W, C] or [C, H, W], of 1, 3 or 4 channels,
            as uint8, bool, uint16 or floats from 0 to 1.
        max_value: white of grey samples of more than 8 bits, see `to_rgb`.

    Raises:
        UserError: for bytes that are no image, pixels of another form, or a Pillow mode without a plain RGB form.
    """
    if isinstance(image, bytes):
        with open_header("bytes", io.BytesIO(image)) as opened:
            return _decoded("bytes", opened, max_value)
    opened = image if isinstance(image, Image.Image) else _of_pixels(np.asarray(image))
    try:
        return to_rgb(opened, max_value=max_value)
    except (ValueError, OSError) as error:
        given = f"a Pillow image of mode {opened.mode}: {error}"
        raise UserError(given, "an image of 8 or 16 bits a channel", "convert it first") from error


def _of_pixels(pixels: NDArray[Any]) -> Image.Image:
    given, channels = f"an array of {pixels.dtype} {list(pixels.shape)}", (1, 3, 4)
    expected = "pixels [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, as uint8, uint16 or floats from 0 to 1"
    if pixels.ndim == 3 and pixels.shape[2] not in channels and pixels.shape[0] in channels:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim not in (2, 3) or not pixels.size or (pixels.ndim == 3 and pixels.shape[2] not in channels):
        raise UserError(given, expected, "convert it first; one image at a time, or a list of them")
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if np.issubdtype(pixels.dtype, np.floating):
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise UserError(f"{given} from {pixels.min():g} to {pixels.max():g}", expected, "divide 0..255 by 255")
        pixels = (pixels * 255).round().astype(np.uint8)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype == np.uint16 and pixels.ndim == 3:
        pixels = (pixels / 257).round().astype(np.uint8)
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(given, expected, "convert it first")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _to_rgb(image: Image.Image, declared: int | None, max_value: int | None) -> Image.Image:
    if not _is_deep(image):
        return _convert(_upright(image))
    values = np.asarray(_upright(image)).astype(np.int64)
    if values.min() < 0 or values.max() > FULL_RANGE:
        raise ValueError("32-bit pixels whose range is not known")
    white = _white(values, declared, max_value, is_png=image.format == "PNG")
    scaled = np.minimum(values, white) / (white / 255)
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    # Pillow copies images that are upright already.
    image.load()
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int:
    """How the image is turned, as its EXIF says; 1, which is upright, where there is none or it is damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1) or 1)
    except Exception:  # noqa: BLE001 - Pillow's parsers raise whatever they meet; the pixels may be sound
        return 1


def _white(values: NDArray[np.int64], declared: int | None, max_value: int | None, *, is_png: bool) -> int:
    peak = int(values.max())
    if declared is not None and is_png:
        # PNG demands samples of fewer bits scaled to 16. Then the lower bits of dark ones are zeros.
        below = FULL_RANGE // (declared + 1)
        return declared if peak <= declared and (values & below).any() else FULL_RANGE
    if declared is not None and peak <= declared:
        return declared
    return max_value or max(255, (1 << peak.bit_length()) - 1)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _is_cut(image: Image.Image) -> bool:
    # Pillow names the stored form of 16-bit colours so, and keeps the upper byte.
    return not image.mode.startswith(("I", "F")) and any(";16" in str(tile) for tile in getattr(image, "tile", ()))


def _declared_max(image: Image.Image) -> int | None:
    """Return the largest value of a grey sample as the file states it; None if it does not."""
    if not _is_deep(image):
        return None
    if image.format == "PPM":
        return FULL_RANGE  # Pillow has scaled by the file's value
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        try:
            bits = int(np.max(tags.get(TIFF_BITS, 16)))
            found = (
                [(1 << bits) - 1]
                if 8 < bits < 16
                else [int(np.max(tags[name])) for name in TIFF_LARGEST if name in tags]
            )
        except (TypeError, ValueError, OverflowError):
            return None  # the tag contains no numbers
        return next((value for value in found if 255 <= value < FULL_RANGE and value & (value + 1) == 0), None)
    if image.format == "PNG":
        bits = _significant_bits(getattr(image, "fp", None)) or 0
        return (1 << bits) - 1 if 8 <= bits <= 16 else None
    return None


def _significant_bits(file: File | None) -> int | None:
    """Read the chunk sBIT of a grey PNG, which comes before its pixels and palette."""
    if file is None:
        return None
    place = file.tell()
    try:
        file.seek(8)
        for _ in range(MAX_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
                break
            if head[4:] == b"sBIT":
                return int.from_bytes(file.read(1))
            file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)
        return None
    finally:
        file.seek(place)


def _convert(image: Image.Image) -> Image.Image:
    """Convert a mode of 8 bits a channel to RGB without the losses of a bare `convert`.

    Raises:
        ValueError: for pixels whose range is not known (floats).
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels whose range is not known")
    if image.has_transparency_data:
        upright = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    return image.convert("RGB")
