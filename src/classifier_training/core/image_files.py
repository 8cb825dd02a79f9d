"""Image files: which are read, and opening them within limits of pixels, bytes and memory."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import stat
import struct
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from classifier_training.core.errors import UserError, require_extra
from classifier_training.core.storage.places import is_local, read_many

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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

HEAD_BYTES = 64
"""First bytes of a file, which hold the brands of a HEIC photo and the size of a WebP."""

MAX_PIXELS = 178_956_970
"""The largest image that is decoded: 512 MiB as RGB. Pillow refuses the same, but only after a warning."""

SMALL_BYTES = 2**16
"""Files of up to this size are read at once, which takes half as long as reading their parts."""

MAX_BYTES = 2**30
"""The largest file that is decoded; some decoders read all of it into memory."""

LARGE_PIXELS, MIN_BYTES_PER_PIXEL = 2**25, 0.01
"""Fewest bytes per pixel of an image of over 33 million pixels. A photograph has ten times as many; a file with fewer
is of one colour, or meant to exhaust memory."""

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


@contextmanager
def open_image(path: Path | str, content: bytes | OSError | None = None) -> Iterator[Image.Image]:
    """Open an image file for reading its pixels; see `images.read_rgb`.

    Raises:
        UnreadableImageError: when there is no such file, or it is no image or too large.
    """
    with open_file(path, content) as file, open_header(path, file) as image:
        yield image


def open_header(path: Path | str, file: File) -> Image.Image:
    """Read the header of an open file, whose name in messages is `path`; errors as in `open_image`."""
    # Going to the end would empty the buffer, and the header would be fetched again.
    num_bytes = len(file.getbuffer()) if isinstance(file, io.BytesIO) else os.fstat(file.fileno()).st_size
    file.seek(0)
    if num_bytes > MAX_BYTES:
        raise UnreadableImageError(path, f"more than {MAX_BYTES:,} bytes")
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if declared := _webp_size(head):
        # On opening, Pillow reserves two canvases, and fills them with zeros where `keep_large_blocks` was called.
        _check_pixels(path, declared, num_bytes)
    image = _read_header(path, file, is_heif=_is_heif(head))
    _check_pixels(path, image.size, num_bytes)
    return image


def _check_pixels(path: Path | str, size: tuple[int, int], num_bytes: int) -> None:
    num_pixels = size[0] * size[1]
    if num_pixels > MAX_PIXELS:
        raise UnreadableImageError(path, f"more than {MAX_PIXELS:,} pixels")
    if num_pixels > LARGE_PIXELS and num_bytes < num_pixels * MIN_BYTES_PER_PIXEL:
        raise UnreadableImageError(path, f"{num_pixels:,} pixels out of {num_bytes:,} bytes")


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height that the first bytes of a WebP state (RFC 9649, sections 2.5 to 2.7); None for other files."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    kind, fields = head[12:16], head[20:30]
    if kind == b"VP8X":
        return 1 + int.from_bytes(fields[4:7], "little"), 1 + int.from_bytes(fields[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(fields[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", fields[6:10])
    return width & 0x3FFF, height & 0x3FFF


def open_file(path: Path | str, content: bytes | OSError | None) -> File:
    """Open a regular file, or bytes that were fetched; errors as in `open_image`."""
    if content is None and not is_local(path):
        (content,) = read_many([path])
    if isinstance(content, OSError):
        raise UnreadableImageError(path, content.strerror or words(content)) from content
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
        raise UnreadableImageError(path, getattr(error, "strerror", None) or words(error)) from error
    return file


def _read_header(path: Path | str, file: File, *, is_heif: bool) -> Image.Image:
    try:
        with _warnings_lock, warnings.catch_warnings():
            # The limit below raises an error, so the warning is redundant.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _open_heif(path, file) if is_heif else Image.open(file, formats=FORMATS)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(path, "is not an image, or is empty or damaged") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(path, f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # on hostile bytes, decoders raise any exception
        raise UnreadableImageError(path, f"is not an image ({words(error)})") from error


def _is_heif(head: bytes) -> bool:
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


def words(error: BaseException) -> str:
    """Message of an error, or its type where it has none."""
    return str(error) or type(error).__name__
