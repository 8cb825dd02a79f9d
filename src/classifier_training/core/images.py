"""Reading image files: one function from a path to upright 8-bit RGB.

Every reader of pixels (training, prediction, figures, export checks) comes through here, so that all see the same.
"""

from __future__ import annotations

import os
import stat
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)
"""File name endings that count as images, in lower case."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
"""Decoders that may run: Pillow knows dozens more, and hostile files look for the forgotten ones."""

MAX_PIXELS = 178_956_970
"""The largest picture that is decoded: 512 MiB as RGB. Pillow refuses the same, but only after a warning."""

MAX_BYTES = 2**30
"""The largest file that is decoded: some decoders take the whole of it into memory."""

LARGE_PIXELS = 2**25
MIN_BYTES_PER_PIXEL = 0.01
"""A picture of over 33 million pixels has at least so many bytes. A photograph has ten times as many; what has fewer is
one colour, or made to fill the memory."""

_warnings_lock = threading.Lock()
"""Silencing a warning changes the whole process, so threads that read pictures do it one after the other."""


class UnreadableImageError(UserError):
    """An image file that gives no pixels; `reason` says why in a few words."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}",
            f"a readable image ({', '.join(sorted(EXTENSIONS))})",
            "mend or remove the file, or go on without such files: data.on_error=skip",
        )
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        # A loader's worker process sends this error to its parent.
        return type(self), (self.path, self.reason)


def read_size(path: Path | str) -> tuple[int, int]:
    """Return width and height from the file's header alone, as stored (before EXIF orientation).

    Raises:
        UnreadableImageError: when there is no such file or it is no image.
    """
    with _open(path) as image:
        return image.size


def read_rgb(path: Path | str) -> Image.Image:
    """Decode an image: the first frame, EXIF orientation applied, transparency on white, 16 bits scaled to 8.

    Raises:
        UnreadableImageError: when the file is missing, no image, damaged, cut short or too large.
    """
    with _open(path) as image:
        try:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
        except UnreadableImageError:
            raise
        except Exception as error:  # decoders meet hostile bytes with whatever exception lies next
            raise UnreadableImageError(path, f"the image is damaged ({_words(error)})") from error


@dataclass(frozen=True)
class Preview:
    """A picture decoded for looking at, and what its file says of it.

    Args:
        image: upright RGB, possibly smaller than the file's.
        width: in pixels, as stored.
        height: in pixels, as stored.
        mode: Pillow's name for the stored pixels: L, RGB, RGBA, P, I;16, ...
        orientation: EXIF tag 274; 1 is upright.
        num_frames: 1 unless animated.
    """

    image: Image.Image
    width: int
    height: int
    mode: str
    orientation: int
    num_frames: int


def read_preview(path: Path | str, *, min_side: int) -> Preview:
    """Decode an image as `read_rgb` does, but let a JPEG's decoder shrink it where both sides stay above `min_side`.

    Raises:
        UnreadableImageError: see `read_rgb`.
    """
    with _open(path) as image:
        try:
            (width, height), mode = image.size, image.mode
            orientation = int(image.getexif().get(0x0112, 1) or 1)
            num_frames = int(getattr(image, "n_frames", 1))
            image.draft(None, (min_side, min_side))
            image.load()
            upright = to_rgb(ImageOps.exif_transpose(image))
        except UnreadableImageError:
            raise
        except Exception as error:  # see read_rgb
            raise UnreadableImageError(path, f"the image is damaged ({_words(error)})") from error
    return Preview(upright, width, height, mode, orientation, num_frames)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB without the losses of a bare `convert`.

    Raises:
        ValueError: for pixels whose range is not known (32-bit integers past 16 bits, floats).
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels whose range is not known")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels whose range is not known")
    if image.has_transparency_data:
        upright = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _open(path: Path | str) -> Iterator[Image.Image]:
    with _open_file(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > MAX_BYTES:
            raise UnreadableImageError(path, f"more than {MAX_BYTES:,} bytes")
        with _read_header(path, file) as image:
            num_pixels = image.width * image.height
            if num_pixels > MAX_PIXELS:
                raise UnreadableImageError(path, f"more than {MAX_PIXELS:,} pixels")
            if num_pixels > LARGE_PIXELS and num_bytes < num_pixels * MIN_BYTES_PER_PIXEL:
                raise UnreadableImageError(path, f"{num_pixels:,} pixels out of {num_bytes:,} bytes")
            yield image


def _open_file(path: Path | str) -> io.BufferedReader:
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise UnreadableImageError(path, "is a folder, not a file")
        if not stat.S_ISREG(mode):
            # Opening a named pipe would wait for its writer for ever.
            raise UnreadableImageError(path, "is a device, pipe or socket, not a file")
        file = Path(path).open("rb")  # noqa: SIM115 - closed by whoever asked for it
        # The header is fetched here, where threads do not wait for each other.
        file.peek()
    except FileNotFoundError as error:
        raise UnreadableImageError(path, "no such file") from error
    except PermissionError as error:
        raise UnreadableImageError(path, "no permission to read the file") from error
    except (OSError, ValueError) as error:
        raise UnreadableImageError(path, getattr(error, "strerror", None) or _words(error)) from error
    return file


def _read_header(path: Path | str, file: io.BufferedReader) -> Image.Image:
    try:
        with _warnings_lock, warnings.catch_warnings():
            # The limit below says the same as an error, so the warning would only reach the screen.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(path, "is not an image, or is empty or damaged") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(path, f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # see read_rgb
        raise UnreadableImageError(path, f"is not an image ({_words(error)})") from error


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
