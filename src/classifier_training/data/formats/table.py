"""A table of images: CSV or Parquet with the columns path and label, perhaps split and group, and any others."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from classifier_training.core.errors import UserError, enumerate_words, nearest, require_extra
from classifier_training.core.register import register
from classifier_training.core.runtime import setting
from classifier_training.core.settings import PathText, Resume
from classifier_training.data.formats.listing import NamedFileSource, image_folders, locate, named_split, open_text
from classifier_training.data.index import NoSamplesError, Sample, SampleIndex, split_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from classifier_training.data.walk import Walker

log = logging.getLogger(__name__)

TABLE_ENDINGS = (".csv", ".parquet")


def known_encoding(name: str) -> str:
    """Return the name of a text encoding when there is such a one."""
    try:
        "".encode(name)
    except LookupError:
        raise ValueError("there is no such encoding") from None
    return name


@register(group="data", name="csv")
@dataclass(frozen=True, kw_only=True)
class Table(NamedFileSource):
    """A CSV or Parquet file with the columns path and label, optionally split and group; others are metadata.

    Args:
        file: the table; paths in it are relative to data.root, or to its own folder. Left out, it is the only .csv or
            .parquet file in data.root; train.csv, val.csv and test.csv are splits.
        path_column: name of the column with the paths.
        label_column: name of the column with the labels; an empty label is a class of its own.
        encoding: of a CSV file's text, such as latin-1.
        separator: of a CSV file's columns.
    """

    file: Annotated[PathText | None, Resume.FIXED] = None
    path_column: Annotated[str, Resume.FIXED] = "path"
    label_column: Annotated[str, Resume.FIXED] = "label"
    encoding: Annotated[str, AfterValidator(known_encoding), Resume.FIXED] = "utf-8"
    separator: Annotated[str, Field(min_length=1, max_length=1), Resume.FIXED] = ","

    endings: ClassVar[tuple[str, ...]] = TABLE_ENDINGS

    def read_files(self, files: Sequence[Path], walker: Walker) -> SampleIndex:
        """List the rows; see the base class."""
        samples: list[Sample] = []
        for file in files:
            split = split_of(file.stem) if len(files) > 1 else ""
            for where, row in self._rows(file):
                try:
                    samples.append(self._sample(row, where, file, walker, split))
                except UserError as error:
                    walker.errors.handle(error)
        if not samples:
            raise NoSamplesError(
                f"{files[0]}: no row with an image", "rows with a path and a label", "look at the file, or its header"
            )
        return SampleIndex(walker.root, tuple(samples), label_files=tuple(files))

    def _rows(self, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each row with its file and line."""
        if file.suffix.lower() == ".parquet":
            yield from _parquet_rows(file, self._check_columns)
            return
        lines = open_text(file, encoding=self.encoding, setting="data.encoding")
        reader = csv.DictReader(lines, delimiter=self.separator, strict=True)
        try:
            self._check_columns(file, list(reader.fieldnames or ()))
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{file}:{reader.line_num}: {'more' if None in row else 'fewer'} fields than the header has",
                        f"{len(reader.fieldnames or ())} fields: {', '.join(reader.fieldnames or ())}",
                        'correct the line; a field with a comma needs quotation marks: "a, b.jpg"',
                    )
                yield f"{file}:{reader.line_num}", row
        except csv.Error as error:
            raise UserError(
                f"{file}:{reader.line_num}: not CSV ({error})", "comma-separated values", "correct the line"
            ) from error

    def _check_columns(self, file: Path, names: list[str]) -> None:
        other = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        if other is not None:
            raise UserError(
                f"{file}: one column, {names[0]!r}",
                f"columns with {self.separator!r} between them",
                setting("data.separator", other),
            )
        for key, name in (("path_column", self.path_column), ("label_column", self.label_column)):
            if name not in names:
                close = nearest(name, names) or [found for found in names if found != self.path_column][:1]
                listed = enumerate_words(map(repr, names)) or "no header"
                raise UserError(
                    f"{file}: no column '{name}' among {listed}",
                    "a header line with the columns path, label and optionally split and group",
                    f"data.{key}={close[0] if close else '…'}, or name the column '{name}' in the file",
                )

    def _sample(self, row: Mapping[str, Any], where: str, file: Path, walker: Walker, split: str) -> Sample:
        path, label = row[self.path_column], row[self.label_column]
        if not isinstance(path, str) or label is None:
            field = "path" if label is not None else "label"
            raise UserError(f"{where}: the {field} is null", "a path and a label", "correct or remove the row")
        group = row.get("group")
        own = {self.path_column, self.label_column, "split", "group"}
        metadata = {name: value for name, value in row.items() if name not in own}
        return Sample(
            locate(path, where, image_folders(file, walker), walker),
            str(label),
            named_split(row.get("split"), where) or split,
            "" if group is None else str(group),
            metadata or None,
        )


def looks_tabled(file: Path) -> bool:
    """Whether a file has the columns of a table of images."""
    if file.suffix.lower() != ".csv":
        return True
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        return {"path", "label"} <= set(next(csv.reader(lines), ()))


def _parquet_rows(file: Path, check: Callable[[Path, list[str]], None]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise require_extra("pyarrow", extra="parquet", purpose=f"reading {file.name}") from error
    try:
        table = pq.ParquetFile(file)
        check(file, list(table.schema_arrow.names))
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: not Parquet ({error})", "a Parquet file", "write it again, or use CSV") from error
