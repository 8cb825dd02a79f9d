"""The form of data seen by looking: JSONL when there is an annotation file, else a folder a class."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.data.formats.image_folder import read_image_folder
from classifier_training.data.formats.jsonl import annotation_files, looks_annotated, read_jsonl
from classifier_training.data.index import resolve_root
from classifier_training.data.source import FolderSource

if TYPE_CHECKING:
    from classifier_training.data.index import SampleIndex


log = logging.getLogger(__name__)


@register(group="data", name="auto")
@dataclass(frozen=True, kw_only=True)
class AutoData(FolderSource):
    """Image folder or JSONL, whichever lies in root."""

    def read(self) -> SampleIndex:
        """List the samples; see the base class."""
        root = resolve_root(self.root)
        files = annotation_files(root)
        if not files:
            return read_image_folder(root)
        if not any(looks_annotated(file) for file in files):
            with contextlib.suppress(UserError):
                index = read_image_folder(root)
                log.warning("%s has no row with an image; it is left out, and the folders are the classes", files[0])
                return index
        return read_jsonl(root)
