"""Reading image files: one function from a path to upright 8-bit RGB.

Training, prediction, figures and export checks all read pixels through this module, so that they see the same.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import stat
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from classifier_training.core.errors import UserError, require_extra
from classifier_training.core.storage.places import is_local, read_many

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    File = io.BufferedReader | io.BytesIO

EXTENSIONS = frozenset(
    {
        ".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm",
        ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
"""File name endings that count as images, in lower case."""

HEIF_EXTENSIONS = frozenset({".heic", ".heif", ".hif"})
"""Endings that count as images where the extra heif is installed."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
"""Decoders that are allowed. Pillow has dozens more, which hostile files could exploit."""

HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
ANY_BRANDS = frozenset({b"mif1", b"msf1"})
"""Brands in the first bytes of a file; one of the second kind may hold AVIF, too, which Pillow reads itself."""

BRAND_BYTES = 64

MAX_PIXELS = 178_956_970
"""The largest image that is decoded: 512 MiB as RGB. Pillow refuses the same, but only after a warning."""

SMALL_BYTES = 2**16
"""Files of up to this size are read at once, which takes half as long as reading their parts."""

MAX_BYTES = 2**30
"""The largest file that is decoded; some decoders read all of it into memory."""

LARGE_PIXELS, MIN_BYTES_PER_PIXEL = 2**25, 0.01
"""Fewest bytes per pixel of an image of over 33 million pixels. A photograph has ten times as many; a file with fewer
is of one colour, or meant to exhaust memory."""

FULL_RANGE = 65535
"""White of grey samples of more than 8 bits, unless the file or the user states another value."""

ORIENTATION = 274
"""Tag of the EXIF orientation."""

TIFF_BITS, TIFF_LARGEST = 258, (341, 281)
"""Tags of the bits per sample, and of the largest value of a sample."""

MAX_CHUNKS = 100
"""Most chunks of a PNG that are searched for sBIT."""

_warnings_lock = threading.Lock()
"""Silencing a warning affects the whole process, so only one thread at a time does it."""


class UnreadableImageError(UserError):
    """An image file that cannot be decoded; `reason` says why in a few words."""

    def __init__(self, path: Path | str, reason: str, remedy: str = "repair or remove the file") -> None:
        super().__init__(
            f"{path}: {reason}",
            f"a readable image ({', '.join(sorted(image_extensions()))})",
            f"{remedy}, or leave out such files: data.on_error=skip",
        )
        self.path = str(path)
        self.reason = reason
        self._remedy = remedy

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str, str]]:
        # Worker processes send this error to their parent.
        return type(self), (self.path, self.reason, self._remedy)


@functools.cache
def reads_heif() -> bool:
    """Whether the extra heif is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def image_extensions() -> frozenset[str]:
    """File name endings that are read here, in lower case."""
    return EXTENSIONS | HEIF_EXTENSIONS if reads_heif() else EXTENSIONS


def missing_heif(purpose: str) -> UserError:
    """Return the error for HEIC photos where the extra heif is not installed."""
    return require_extra("pillow-heif", extra="heif", purpose=purpose)


def read_size(path: Path | str) -> tuple[int, int]:
    """Return width and height from the file's header, as stored (before EXIF orientation).

    Raises:
        UnreadableImageError: when there is no such file or it is no image.
    """
    with _open(path) as image:
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
    with _open_file(path, content) as file:
        start = file.read(num_bytes)
        with _open_image(path, file) as image:
            try:
                lacks_range = _is_deep(image) and _declared_max(image) is None
                return Header(image.width, image.height, lacks_range, _is_cut(image)), start
            except Exception as error:  # see read_rgb
                raise UnreadableImageError(path, f"the image is damaged ({_words(error)})") from error


def read_peak(path: Path | str) -> int:
    """Return the largest grey sample of a file, as it is stored.

    Raises:
        UnreadableImageError: see `read_rgb`.
    """
    with _open(path) as image:
        try:
            return int(np.asarray(image).max())
        except Exception as error:  # see read_rgb
            raise UnreadableImageError(path, f"the image is damaged ({_words(error)})") from error


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
    with _open(path, content) as image:
        return _decoded(path, image, max_value)


def _decoded(path: Path | str, image: Image.Image, max_value: int | None) -> Image.Image:
    try:
        return to_rgb(image, max_value=max_value)
    except UnreadableImageError:
        raise
    except Exception as error:  # on hostile bytes, decoders raise any exception
        raise UnreadableImageError(path, f"the image is damaged ({_words(error)})") from error


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
    with _open(path, content) as image:
        try:
            # First, because later calls may read the pixels, after which Pillow closes the file.
            is_cut, declared = _is_cut(image), _declared_max(image)
            (width, height), mode = image.size, image.mode
            orientation = int(image.getexif().get(ORIENTATION, 1) or 1)
            num_frames = int(getattr(image, "n_frames", 1))
            image.draft(None, (min_side, min_side))
            upright = _to_rgb(image, declared, None)
            peak = int(np.asarray(image).max()) if _is_deep(image) and declared is None else None
        except UnreadableImageError:
            raise
        except Exception as error:  # see read_rgb
            raise UnreadableImageError(path, f"the image is damaged ({_words(error)})") from error
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
        with _read_header("bytes", io.BytesIO(image)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UnreadableImageError("bytes", f"more than {MAX_PIXELS:,} pixels")
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
    return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


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
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels whose range is not known")
    if image.has_transparency_data:
        upright = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _open(path: Path | str, content: bytes | OSError | None = None) -> Iterator[Image.Image]:
    with _open_file(path, content) as file, _open_image(path, file) as image:
        yield image


def _open_image(path: Path | str, file: File) -> Image.Image:
    # Going to the end would empty the buffer, and the header would be fetched again.
    num_bytes = len(file.getbuffer()) if isinstance(file, io.BytesIO) else os.fstat(file.fileno()).st_size
    file.seek(0)
    if num_bytes > MAX_BYTES:
        raise UnreadableImageError(path, f"more than {MAX_BYTES:,} bytes")
    image = _read_header(path, file)
    num_pixels = image.width * image.height
    if num_pixels > MAX_PIXELS:
        raise UnreadableImageError(path, f"more than {MAX_PIXELS:,} pixels")
    if num_pixels > LARGE_PIXELS and num_bytes < num_pixels * MIN_BYTES_PER_PIXEL:
        raise UnreadableImageError(path, f"{num_pixels:,} pixels out of {num_bytes:,} bytes")
    return image


def _open_file(path: Path | str, content: bytes | OSError | None) -> File:
    if content is None and not is_local(path):
        (content,) = read_many([path])
    if isinstance(content, OSError):
        raise UnreadableImageError(path, content.strerror or _words(content)) from content
    if content is not None:
        return io.BytesIO(content)
    try:
        facts = os.stat(path)  # noqa: PTH116 - Path objects would take a quarter of the time of a header
        if stat.S_ISDIR(facts.st_mode):
            raise UnreadableImageError(path, "is a folder, not a file")
        if not stat.S_ISREG(facts.st_mode):
            # Opening a named pipe would wait for its writer for ever.
            raise UnreadableImageError(path, "is a device, pipe or socket, not a file")
        # Here at least the header is fetched, where threads do not wait for each other.
        if facts.st_size <= SMALL_BYTES:
            with open(path, "rb", buffering=0) as raw:  # noqa: PTH123 - as above
                return io.BytesIO(raw.readall())
        file = open(path, "rb")  # noqa: PTH123, SIM115 - as above; closed by whoever asked for it
        file.peek()
    except FileNotFoundError as error:
        raise UnreadableImageError(path, "no such file") from error
    except PermissionError as error:
        raise UnreadableImageError(path, "no permission to read the file") from error
    except (OSError, ValueError) as error:
        raise UnreadableImageError(path, getattr(error, "strerror", None) or _words(error)) from error
    return file


def _read_header(path: Path | str, file: File) -> Image.Image:
    try:
        with _warnings_lock, warnings.catch_warnings():
            # The limit below raises an error, so the warning is redundant.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _open_heif(path, file) if _is_heif(file) else Image.open(file, formats=FORMATS)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(path, "is not an image, or is empty or damaged") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(path, f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # see read_rgb
        raise UnreadableImageError(path, f"is not an image ({_words(error)})") from error


def _is_heif(file: File) -> bool:
    head = file.read(BRAND_BYTES)
    file.seek(0)
    is_photo = head[8:12] in HEIF_BRANDS or (head[8:12] in ANY_BRANDS and b"avif" not in head)
    return is_photo and head[4:8] == b"ftyp"


def _open_heif(path: Path | str, file: File) -> Image.Image:
    # Not by registering a decoder with Pillow, which would change what the rest of the process can open.
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        missing = missing_heif("a HEIC photo")
        raise UnreadableImageError(path, f"{missing.came}: {missing.remedy}", missing.remedy) from error
    opened: Image.Image = HeifImageFile(file)
    return opened


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
