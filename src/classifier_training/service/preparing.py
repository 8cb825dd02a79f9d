"""From what a client sends to the network's input: files are taken apart and decoded in threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, MultipartState, parse_options_header
from starlette.exceptions import HTTPException

from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_header
from classifier_training.inference.decoding import fit_pixels, read_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from python_multipart.multipart import File

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.service.settings import Limits

RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Types of a body that is an image besides image/*; the last is what curl --data-binary says."""

FORM = "multipart/form-data"


@dataclass(frozen=True)
class Sent:
    """An image as a client sent it.

    Args:
        path: the name that it gave.
        content: the file, or pixels, uint8 [H, W, 3], RGB.
    """

    path: str
    content: bytes | NDArray[np.uint8]


@dataclass(frozen=True)
class Prepared:
    """An image that is ready for the network, or why it is not.

    Args:
        sent: the image.
        pixels: in the size of the input, uint8 [H, W, 3], RGB.
        inputs: of the network, float32 [1, 3, H, W].
        size: width and height before that.
        error: why there are none.
        is_too_large: whether that is the reason.
    """

    sent: Sent
    pixels: NDArray[np.uint8] | None = None
    inputs: NDArray[np.float32] | None = None
    size: tuple[int, int] | None = None
    error: str | None = None
    is_too_large: bool = False


def prepare(sent: Sent, preprocessing: Preprocessing, limits: Limits) -> Prepared:
    """Decode an image and bring it to the size of the input, as `predict` does."""
    try:
        if isinstance(sent.content, bytes):
            header = read_header("", sent.content)
            size = header.width, header.height
        else:
            size = sent.content.shape[1], sent.content.shape[0]
        most = int(limits.megapixels * 1e6)
        if size[0] * size[1] > most:
            words = f"{size[0]} x {size[1]} pixels: at most {most:,} are decoded"
            return Prepared(sent, size=size, error=words, is_too_large=True)
        pixels = (
            read_pixels("", preprocessing, sent.content)
            if isinstance(sent.content, bytes)
            else fit_pixels(Image.fromarray(sent.content), preprocessing)
        )
    except UnreadableImageError as error:
        return Prepared(sent, error=error.reason)
    return Prepared(sent, pixels, preprocessing.normalize(pixels[None]), size)


def read_form(body: bytes, content_type: str, limits: Limits) -> list[Sent]:
    """Return the files of a multipart body, in their order.

    Raises:
        HTTPException: 400 for a body that is none or has no file; 413 for too many files.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary or len(boundary) > 256:
        raise HTTPException(400, "multipart/form-data without a boundary")
    found: list[Sent] = []

    def add(file: File) -> None:
        if len(found) == limits.images:
            raise HTTPException(413, f"more than {limits.images} images")
        file.file_object.seek(0)
        found.append(Sent((file.file_name or b"").decode("utf-8", "replace"), file.file_object.read()))

    in_memory: Mapping[str, float] = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    parser = FormParser(FORM, lambda _: None, add, boundary=boundary, config=dict(in_memory))
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise HTTPException(400, f"the body is no multipart/form-data: {error}") from None
    finally:
        parser.close()
    if getattr(parser.parser, "state", None) is not MultipartState.END:
        # Whoever matches the predictions with the files that were sent would label them wrongly.
        raise HTTPException(400, f"the body is no multipart/form-data: it ends within a part, after {len(found)} files")
    if not found:
        raise HTTPException(400, "multipart/form-data without a file: send each image as a part with a file name")
    return found
