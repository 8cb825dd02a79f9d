"""A table of images: CSV or Parquet with columns of paths and labels, perhaps split and group, and any others."""

from __future__ import annotations

import csv
import itertools
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from classifier_training.core.errors import UserError, enumerate_words, plural, require_extra
from classifier_training.core.register import register
from classifier_training.core.runtime import setting
from classifier_training.core.settings import PathText, Resume
from classifier_training.core.storage.places import is_remote
from classifier_training.core.types import TEST, TRAIN
from classifier_training.data.formats.columns import (
    MAX_SAMPLED,
    Layout,
    ManyLabelsError,
    Wanted,
    find_layout,
    find_separator,
    has_header,
)
from classifier_training.data.formats.listing import (
    NamedFileSource,
    image_folders,
    locate,
    loose_files,
    named_split,
    open_text,
)
from classifier_training.data.index import NoSamplesError, SampleIndex, is_image, split_of
from classifier_training.data.samples import SamplesBuilder
from classifier_training.data.walk import DataErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from classifier_training.core.columns import Texts
    from classifier_training.data.samples import SampleRow, Samples
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
    """A CSV or Parquet file with a column of paths or names, one of labels, optionally split and group, and metadata.

    What is left out is found in the file: columns by their names and by which files exist; a header or none; labels in
    one column, or in columns of 0 and 1 for each class. A table called test, or a folder test, may come without labels.

    Args:
        file: the table; paths in it are relative to data.root, or to its own folder. Left out, it is the only .csv or
            .parquet file in data.root, or in each of train/, val/ and test/; train.csv, val.csv, test.csv are splits.
        path_column: name of the column with the paths, or with names of files; column1, column2, … without a header.
        label_column: name of the column with the labels; an empty label is a class of its own.
        folder: folder, relative to data.root, that the paths begin in, such as train.
        suffix: ending that the names in the table lack, such as .jpg.
        encoding: of a CSV file's text, such as latin-1.
        separator: of a CSV file's columns.
    """

    file: Annotated[PathText | None, Resume.FIXED] = None
    path_column: Annotated[str | None, Resume.FIXED] = None
    label_column: Annotated[str | None, Resume.FIXED] = None
    folder: Annotated[str | None, Resume.FIXED] = None
    suffix: Annotated[str | None, Resume.FIXED] = None
    encoding: Annotated[str, AfterValidator(known_encoding), Resume.FIXED] = "utf-8"
    separator: Annotated[str | None, Field(min_length=1, max_length=1), Resume.FIXED] = None

    endings: ClassVar[tuple[str, ...]] = TABLE_ENDINGS

    def find_files(self, walker: Walker) -> list[Path]:
        """The files to read if the settings name none; files to submit are none, and neither are tables of others."""
        tables = tables_of(walker)
        if tables and tables[0].parent != walker.root:
            return tables
        if len(tables) > 1 and not all(split_of(file.stem) for file in tables):
            described = [file for file in tables if self.describes(file, walker) is not None]
            if len(described) == 1 or (described and all(split_of(file.stem) for file in described)):
                return described
        return loose_files(walker, self.endings, is_other=is_submission)

    def describes(
        self, file: Path, walker: Walker, *, refuses: Callable[[Layout], bool] = lambda _: False
    ) -> Layout | None:
        """The layout of a table if all sampled rows name images that exist; else None.

        Args:
            file: the table.
            walker: of the data folder.
            refuses: whether to raise for a layout of which it is not clear which column has the labels.

        Raises:
            ManyLabelsError: then.
        """
        try:
            layout = self._open(file, walker).layout
        except ManyLabelsError as error:
            if error.layout is not None and error.layout.is_complete and refuses(error.layout):
                raise
            return None
        except (UserError, OSError):
            return None
        return layout if layout.is_complete else None

    def read_files(self, files: Sequence[Path], walker: Walker) -> SampleIndex:
        """List the rows; see the base class."""
        builder = SamplesBuilder()
        unlabelled: list[str] = []
        for file in files:
            is_inside = file.parent.parent == walker.root
            split = split_of(file.parent.name if is_inside else file.stem) if len(files) > 1 else ""
            opened = self._open(file, walker)
            log.info("%s: %s", file, opened.layout.words())
            if not opened.layout.has_labels and split != TEST:
                raise _no_labels(file, opened.names)
            for where, row in opened.rows(walker.errors):
                try:
                    sample = _read_row(row, where, file, walker, opened.layout, split)
                except UserError as error:
                    walker.errors.handle(error)
                else:
                    if opened.layout.has_labels:
                        builder.add(*sample)
                    else:
                        unlabelled.append(sample[0])
        if not len(builder):
            raise NoSamplesError(
                f"{files[0]}: no row with an image", "rows with a path and a label", "look at the file, or its header"
            )
        samples = builder.samples()
        if (splits := _folder_splits(samples)) is not None:
            samples = samples.with_columns(splits=splits)
        if number := samples.labels[~samples.splits.where(TEST)].counts().get(""):
            log.warning(
                "%s: %s with an empty label, which is a class of its own here; remove those that are just not labelled",
                files[0], plural(number, "row"),
            )  # fmt: skip
        if not unlabelled and TEST not in samples.splits.counts():
            unlabelled = _test_images(walker, samples.paths)
        return SampleIndex(walker.root, samples, unlabelled=tuple(unlabelled), label_files=tuple(files))

    def _open(self, file: Path, walker: Walker) -> OpenedTable:
        wanted = Wanted(self.path_column, self.label_column, self.folder, self.suffix)
        return open_table(file, walker, wanted, encoding=self.encoding, separator=self.separator)


def _folder_splits(samples: Samples) -> list[str] | None:
    """Return the splits of folders such as train/ and test/ that all images are in, where no column says them."""
    if any(samples.splits.counts()):
        return None
    splits = [split_of(path.partition("/")[0]) for path in samples.paths]
    if not all(splits) or TRAIN not in splits or len(set(splits)) < 2:
        return None
    log.info("splits from the folders of the images: %s", enumerate_words(sorted(set(splits))))
    return splits


def tables_of(walker: Walker) -> list[Path]:
    """The tables directly in a root that are not to be filled in; where there is none, the only one of each split.

    Hugging Face's metadata.csv and Roboflow's _classes.csv lie beside the images of a split.
    """

    def tables_in(folder: Path) -> list[Path]:
        names = [name for name in walker.loose_files(folder) if Path(name).suffix.lower() in TABLE_ENDINGS]
        return [folder / name for name in names if not is_submission(Path(name))]

    inside = [tables_in(folder) for folder in walker.folders(walker.root) if split_of(folder.name)]
    return tables_in(walker.root) or [tables[0] for tables in inside if len(tables) == 1]


def is_submission(file: Path) -> bool:
    """Whether a table is, by its name, one to be filled in with predictions."""
    return "submission" in file.stem.casefold()


@dataclass(frozen=True)
class OpenedTable:
    """A table whose columns are known.

    Args:
        names: of its columns.
        rows: yields each row with its file and line, and hands lines that are none to what it is given.
        layout: which column is what.
    """

    names: Sequence[str]
    rows: Callable[[DataErrors], Iterator[tuple[str, Mapping[str, Any]]]]
    layout: Layout


def open_table(
    file: Path, walker: Walker, wanted: Wanted, *, encoding: str = "utf-8", separator: str | None = None
) -> OpenedTable:
    """Open a table and find its columns.

    Args:
        file: the table.
        walker: of the data folder.
        wanted: what the settings say of the columns.
        encoding: of a CSV file.
        separator: of a CSV file's columns; found when left out.

    Raises:
        UserError: when it cannot be read, or its columns are not clear.
    """
    if file.suffix.lower() == ".parquet":
        refuse_images_inside(file, walker.root)
        names = _parquet_schema(file).names

        def rows(errors: DataErrors) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ARG001 - rows have one width
            return _parquet_rows(file)
    else:
        mark = separator or find_separator(_lines(file, encoding))
        first = next(csv.reader(_lines(file, encoding), delimiter=mark, skipinitialspace=True), [])
        is_header = has_header(first, wanted)
        names = first if is_header else [f"column{number}" for number in range(1, len(first) + 1)]

        def rows(errors: DataErrors) -> Iterator[tuple[str, Mapping[str, Any]]]:
            return _csv_rows(file, names, _lines(file, encoding), mark, errors, skip=is_header)

    sampled = _spread(row for _, row in rows(DataErrors("skip")))
    return OpenedTable(names, rows, find_layout(file, names, sampled, walker, wanted))


def _spread(rows: Iterator[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Some rows, spread over a table: of more than twice as many as are wanted, every other one is dropped."""
    kept: list[Mapping[str, Any]] = []
    step = 1
    try:
        for number, row in enumerate(rows):
            if number % step == 0:
                kept.append(row)
                if len(kept) >= 2 * MAX_SAMPLED:
                    kept, step = kept[::2], 2 * step
    except UserError:
        return kept  # raised again, or skipped, when the rows are read
    return kept


def _lines(file: Path, encoding: str) -> Iterator[str]:
    return open_text(file, encoding=encoding, setting="data=csv data.encoding")


def _csv_rows(
    file: Path, names: Sequence[str], lines: Iterator[str], separator: str, errors: DataErrors, *, skip: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    try:
        for number, cells in enumerate(reader):
            if (number == 0 and skip) or not cells:
                continue
            if len(cells) != len(names):
                errors.handle(
                    UserError(
                        f"{file}:{reader.line_num}: {'more' if len(cells) > len(names) else 'fewer'} fields than "
                        f"the {'header' if skip else 'first line'} has",
                        f"{len(names)} fields: {', '.join(names)}",
                        f'correct the line; a field with {separator!r} needs quotation marks: "a{separator} b.jpg"',
                    )
                )
                continue
            yield f"{file}:{reader.line_num}", dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{file}:{reader.line_num}: not CSV ({error})", "comma-separated values", "correct the line"
        ) from error


def _read_row(row: Mapping[str, Any], where: str, file: Path, walker: Walker, layout: Layout, split: str) -> SampleRow:
    places, label = layout.names(row), layout.label_of(row, where)
    if not places or (label is None and layout.has_labels):
        field = "label" if places else "path"
        raise UserError(f"{where}: the {field} is null", "a path and a label", "correct or remove the row")
    group = None if layout.group is None else row[layout.group]
    own = {layout.path, layout.label, layout.split, layout.group, *layout.one_hot}
    metadata = {name: value for name, value in row.items() if name not in own}
    return (
        _locate(places, where, file, walker),
        label or "",
        named_split(None if layout.split is None else row[layout.split], where) or split,
        "" if group is None else str(group),
        metadata or None,
    )


def _locate(places: Sequence[str], where: str, file: Path, walker: Walker) -> str:
    """Return the path of an image that is in one of several places.

    Raises:
        UserError: when it is in none.
    """
    *first, last = places
    for place in first:
        with suppress(UserError):
            return locate(place, where, image_folders(file, walker), walker)
    return locate(last, where, image_folders(file, walker), walker)


def _no_labels(file: Path, names: Sequence[str]) -> UserError:
    return UserError(
        f"{file}: no column with labels among {enumerate_words(map(repr, names))}",
        "a column called label, or one with another name",
        "data=csv data.label_column=NAME, or add the labels to the table",
    )


def _test_images(walker: Walker, listed: Texts) -> list[str]:
    """The images directly in the folder test that no row names."""
    begin = len(str(walker.root).rstrip("/")) + 1
    folders = [folder for folder in walker.folders(walker.root) if split_of(folder.name) == TEST]
    paths = [f"{folder}/{name}"[begin:] for folder in folders for name in walker.loose_files(folder) if is_image(name)]
    return [] if len(listed.find(paths)) else paths


def looks_tabled(file: Path) -> bool:
    """Whether a file has the columns of a table of images."""
    if file.suffix.lower() != ".csv":
        return True
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        head = list(itertools.islice(lines, MAX_SAMPLED))
    return {"path", "label"} <= set(next(csv.reader(head, delimiter=find_separator(head)), ()))


def refuse_images_inside(file: Path, root: Path) -> None:
    """Raise for a Parquet file that holds the images themselves, as those of the Hugging Face hub do.

    Raises:
        UserError: then, with the form of data that reads it.
    """
    schema = _parquet_schema(file)
    import pyarrow as pa

    for column in schema:
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            raise UserError(
                f"{file}: column {column.name!r} holds the images themselves",
                "a table of paths; files like this one, which the Hugging Face hub has, are data=huggingface",
                f"in place of the folder: data=huggingface {setting('data.name', root)}",
            )


def _parquet_schema(file: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise require_extra("pyarrow", extra="parquet", purpose=f"reading {file.name}") from error
    try:
        return pq.ParquetFile(_opened(file)).schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: not Parquet ({error})", "a Parquet file", "write it again, or use CSV") from error


def _opened(file: Path) -> Any:
    return file.open("rb") if is_remote(file) else file


def _parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(_opened(file))
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: not Parquet ({error})", "a Parquet file", "write it again, or use CSV") from error
