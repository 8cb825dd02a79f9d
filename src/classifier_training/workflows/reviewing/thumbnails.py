"""Images for the pages: decoded by the reader of training and encoded anew, so that no byte of a file is served."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from PIL import Image

from classifier_training.core.files import is_inside
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_preview

if TYPE_CHECKING:
    from classifier_training.workflows.reviewing.collection import Collection

SIDES = {"small": 224, "large": 1024, "whole": 4096}
"""Longest side of an image in pixels, by its size's name in addresses."""

TINY = 64
"""Images up to this side are sent as PNG: JPEG would show its own blocks."""

MAX_BYTES = 128 * 2**20
"""Encoded images that are kept in memory."""


class Thumbnails:
    """The encoded images of a collection, the last ones kept in memory.

    Args:
        collection: whose images they are.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._kept: OrderedDict[tuple[int, str], tuple[bytes, str]] = OrderedDict()
        self._num_bytes = 0
        self._lock = Lock()

    def encoded(self, row: int, size: str) -> tuple[bytes, str]:
        """Return an image and its type.

        Args:
            row: of the image.
            size: one of SIDES.

        Raises:
            UnreadableImageError: when it cannot be decoded, or is a link out of the data folder.
        """
        key = row, size
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = self._encode(row, SIDES[size])
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._num_bytes += len(found[0])
            while self._num_bytes > MAX_BYTES and len(self._kept) > 1:
                _, (content, _) = self._kept.popitem(last=False)
                self._num_bytes -= len(content)
        return found

    def _encode(self, row: int, side: int) -> tuple[bytes, str]:
        root = self.collection.root
        path = root / self.collection.paths[row]
        # A link may have taken the place of a file since the data was read.
        if not self.collection.follows_links and not is_inside(os.path.realpath(root), os.path.realpath(path)):
            raise UnreadableImageError(path, "it is a link out of the data folder")
        image = read_preview(path, min_side=side).image
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
        content = io.BytesIO()
        if max(image.size) <= TINY:
            image.save(content, "PNG")
            return content.getvalue(), "image/png"
        image.save(content, "JPEG", quality=85)
        return content.getvalue(), "image/jpeg"
