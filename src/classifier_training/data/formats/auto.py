"""The form of data seen by looking: JSONL when there is an annotation file, else a folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.register import register
from classifier_training.data.formats.image_folder import read_image_folder
from classifier_training.data.formats.jsonl import annotation_files, read_jsonl
from classifier_training.data.index import resolve_root
from classifier_training.data.source import FolderSource

if TYPE_CHECKING:
    from classifier_training.data.index import SampleIndex


@register(group="data", name="auto")
@dataclass(frozen=True, kw_only=True)
class AutoData(FolderSource):
    """Image folder or JSONL, whichever lies in root."""

    def read(self) -> SampleIndex:
        """List the samples; see the base class."""
        root = resolve_root(self.root)
        return read_jsonl(root) if annotation_files(root) else read_image_folder(root)
