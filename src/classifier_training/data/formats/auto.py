"""The form of data seen by looking: annotations, a table or a list where there is one, else a folder a class."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.data.formats.files import LIST_ENDINGS, FileList, looks_listed
from classifier_training.data.formats.image_folder import read_image_folder
from classifier_training.data.formats.jsonl import JSONL, annotation_files, looks_annotated, read_jsonl
from classifier_training.data.formats.source import FolderSource
from classifier_training.data.formats.table import TABLE_ENDINGS, Table, looks_tabled

if TYPE_CHECKING:
    from collections.abc import Callable

    from classifier_training.data.formats.named_file import NamedFileSource
    from classifier_training.data.index import SampleIndex
    from classifier_training.data.walk import Walker


log = logging.getLogger(__name__)


@register(group="data", name="auto")
@dataclass(frozen=True, kw_only=True)
class AutoData(FolderSource):
    """Image folder, JSONL, CSV, Parquet or a list of files, whichever root is or holds."""

    def _read_root(self, root: str | None) -> SampleIndex:
        if root is not None and Path(root).is_file():
            forms: tuple[type[NamedFileSource], ...] = (JSONL, Table, FileList)
            for form in forms:
                if Path(root).suffix.lower() in form.endings:
                    return self._as(form, Path(root), None)
        return super()._read_root(root)

    def read_one(self, walker: Walker) -> SampleIndex:
        """List the samples; see the base class."""
        annotations = annotation_files(walker)
        if any(map(looks_annotated, annotations)):
            return read_jsonl(walker)
        table = self._only(walker, TABLE_ENDINGS, looks_tabled)
        if table:
            return self._as(Table, table, walker.root)
        with contextlib.suppress(UserError) if annotations else contextlib.nullcontext():
            try:
                index = read_image_folder(walker)
            except UserError:
                listed = self._only(walker, LIST_ENDINGS, looks_listed)
                if listed is None:
                    raise
                return self._as(FileList, listed, walker.root)
            if annotations:
                log.warning(
                    "%s has no row with an image; it is left out, and the folders are the classes", annotations[0]
                )
            return index
        return read_jsonl(walker)

    def _only(self, walker: Walker, endings: tuple[str, ...], looks_right: Callable[[Path], bool]) -> Path | None:
        """The one file of its kind directly in the root."""
        names = [name for name in walker.loose_files(walker.root) if Path(name).suffix.lower() in endings]
        found = [walker.root / name for name in names if looks_right(walker.root / name)]
        return found[0] if len(found) == 1 else None

    def _as(self, form: type[NamedFileSource], file: Path, root: Path | None) -> SampleIndex:
        log.info("%s lists the images.", file)
        shared = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return form(**{**shared, "file": str(file), "root": None if root is None else str(root)}).read()
