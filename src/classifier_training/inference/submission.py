"""`columns=`: predictions as a table of other columns, such as a competition asks for."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from classifier_training.core.display import write_rows
from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.data.formats.listing import open_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from classifier_training.inference.rows import Row

log = logging.getLogger(__name__)

NAMES: dict[str, Callable[[str], str]] = {
    "path": lambda path: PurePosixPath(path).as_posix(),
    "name": lambda path: PurePosixPath(path).name,
    "stem": lambda path: PurePosixPath(path).stem,
}
"""What an image is called: its path as it is given, the name of its file, and that without its suffix."""

FIELDS = ("label", "confidence")
"""Fields of a prediction that a column can hold; a class name stands for its probability."""

FRACTION = re.compile(r"[01]?\.\d+")
"""A probability, in a column that is no label."""


@dataclass(frozen=True)
class Form:
    """A table to fill in: its columns, and where there is a sample of it, its rows.

    Args:
        header: names of the columns.
        name: which of `NAMES` the first column holds.
        fields: of the other columns: one of `FIELDS`, or a class name.
        sample: the cells of each row of the sample, by the first one; None where every image is a row.
        source: of the sample, for messages.
    """

    header: tuple[str, ...]
    name: str
    fields: tuple[str, ...]
    sample: Mapping[str, Sequence[str]] | None = None
    source: str = ""

    @property
    def needs_probabilities(self) -> bool:
        """Whether a column is the probability of a class."""
        return not set(self.fields) <= set(FIELDS)

    def check(self, paths: Iterable[str]) -> None:
        """Make sure that the images are the rows of the table.

        Args:
            paths: of the images.

        Raises:
            UserError: when two images have the same name, or the sample has rows without an image.
        """
        found: dict[str, str] = {}
        for path in paths:
            name = self._name(path)
            if name in found and (self.sample is None or name in self.sample):
                raise UserError(
                    f"{found[name]} and {path} are both {name!r} in the column {self.header[0]}",
                    "one image for each row",
                    f"columns=[{self.header[0]}:path,…], or a source without one of them",
                )
            found[name] = path
        missing = [name for name in self.sample or () if name not in found]
        if missing:
            raise UserError(
                f"columns={self.source}: {plural(len(missing), 'row')} of {len(self.sample or ()):,} without an image "
                f"in the source: {enumerate_words(missing, limit=3)}",
                "an image for every row of the sample",
                "name the folder of all test images as the source",
            )

    def write(self, rows: Iterable[Row], path: Path, *, is_safe: bool = False) -> Filled:
        """Write the table.

        Args:
            rows: the predictions, with probabilities where they are needed.
            path: of the CSV file.
            is_safe: write no cell that is a formula to a spreadsheet.

        Returns:
            What was filled in.
        """
        # The cells alone: rows with the probabilities of all classes would be gigabytes.
        found: dict[str, list[object]] = {}
        missing: set[str] = set()
        for row in rows:
            name = self._name(row["path"])
            is_wanted = self.sample is None or name in self.sample
            found[name] = [*self._cells(name, row)] if is_wanted else []
            if row["label"] is None:
                missing.add(name)
        names = list(found) if self.sample is None else list(self.sample)
        unread = [name for name in names if name in missing]
        with path.open("w", encoding="utf-8", newline="") as file:
            write_rows(file, self.header, (found[name] for name in names), is_safe=is_safe)
        return Filled(len(names), len(found) - len(names), unread, from_sample=self.sample is not None)

    def _name(self, path: str) -> str:
        """The name of an image; a path is shortened to the row of the sample that it ends in."""
        if self.name != "path" or self.sample is None:
            return NAMES[self.name](path)
        parts = PurePosixPath(path).parts
        ends = ("/".join(parts[first:]) for first in range(len(parts)))
        return next((end for end in ends if end in self.sample), path)

    def _cells(self, name: str, row: Row) -> Iterator[object]:
        yield name
        if row["label"] is None:
            # What cannot be read keeps the sample's values, so that the table can be handed in.
            yield from self.sample[name][1:] if self.sample is not None else [""] * len(self.fields)
            return
        shares = row.get("probabilities") or {}
        for item in self.fields:
            yield row["label"] if item == "label" else row["confidence"] if item == "confidence" else shares[item]


@dataclass(frozen=True)
class Filled:
    """What a table was filled with.

    Args:
        num_rows: that were written.
        num_left_out: images that the sample has no row for.
        unread: names of images that could not be read.
        from_sample: whether these have the values of the sample.
    """

    num_rows: int
    num_left_out: int
    unread: Sequence[str] = field(default_factory=list)
    from_sample: bool = False

    def __str__(self) -> str:
        words = f"{plural(self.num_rows, 'row')} written"
        if self.num_left_out:
            words += f"; {plural(self.num_left_out, 'image')} left out, which the sample does not have"
        if self.unread:
            kept = "keep the values of the sample" if self.from_sample else "are empty"
            words += f"; {len(self.unread):,} that cannot be read {kept}: {enumerate_words(self.unread, limit=3)}"
        return words


def read_form(columns: Sequence[str] | str, class_names: Sequence[str], paths: Iterable[str]) -> Form:
    """Find out what the columns of a table hold.

    Args:
        columns: names of the columns, the image's first, each perhaps with `:FIELD`; or a sample of the table, whose
            header, names and order of rows are taken.
        class_names: of the model [K].
        paths: of the images.

    Raises:
        UserError: for a column that nothing can be found for, a sample that cannot be read, or images that are not its
            rows.
    """
    given = list(paths)
    form = _from_sample(columns, class_names, given) if isinstance(columns, str) else _from_names(columns, class_names)
    form.check(given)
    return form


def _from_sample(columns: str, class_names: Sequence[str], paths: Sequence[str]) -> Form:
    source = Path(columns).expanduser()
    if not source.is_file():
        raise UserError(
            f"columns={columns}: there is no such file",
            "names of columns, or a sample of the table",
            "columns=[id,label], or columns=sample_submission.csv",
        )
    header, *rows = [*csv.reader(open_text(source))] or [[]]
    sample = {row[0]: row for row in rows if row}
    if len(header) < 2 or not sample or any(len(row) != len(header) for row in sample.values()):
        raise UserError(
            f"columns={columns}: no table with a row for each image",
            "a CSV file with a header, a column that names the image, and a label or the probabilities of classes",
            "look at the file",
        )
    if len(sample) < sum(map(bool, rows)):
        twice = next(name for name, number in Counter(row[0] for row in rows if row).items() if number > 1)
        raise UserError(f"columns={columns}: {twice!r} is in two rows", "one row for each image", "look at the file")
    return Form(
        header=tuple(header),
        name=_name_of(sample, paths),
        fields=_fields(header[1:], class_names, [row[1] for row in sample.values()], source=columns),
        sample=sample,
        source=columns,
    )


def _from_names(columns: Sequence[str], class_names: Sequence[str]) -> Form:
    if len(columns) < 2:
        raise UserError(
            f"columns=[{','.join(columns)}]: fewer than two columns",
            "one that names the image, and one for the label or for each class",
            "columns=[id,label]",
        )
    (first, name), *others = [_parted(column) for column in columns]
    if name and name not in NAMES:
        raise UserError(f"columns: {first}:{name}", f"one of {enumerate_words(NAMES)} after the colon", f"{first}:name")
    header = [column for column, _ in others]
    named = [item for _, item in others]
    for column, item in others:
        if item and item not in (*FIELDS, *class_names):
            raise UserError(
                f"columns: {column}:{item}",
                f"one of {enumerate_words([*FIELDS, *class_names])} after the colon",
                f"{column}:label",
            )
    open_columns = [column for column, item in others if not item]
    found = iter(_fields(open_columns, class_names, [], source="")) if open_columns else iter(())
    return Form(header=(first, *header), name=name or "stem", fields=tuple(item or next(found) for item in named))


def _parted(column: str) -> tuple[str, str]:
    name, _, item = column.partition(":")
    return name, item


def _fields(
    columns: Sequence[str], class_names: Sequence[str], values: Sequence[str], *, source: str
) -> tuple[str, ...]:
    """What columns after the first hold: one is the label, several are the classes.

    Raises:
        UserError: when they are neither.
    """
    classes = {_plain(name): name for name in class_names}
    meant = [column if column in class_names else classes.get(_plain(column)) for column in columns]
    known = [item for item in meant if item is not None]
    if len(known) == len(columns):
        lacking = [name for name in class_names if name not in known]
        if lacking and len(columns) > 1:
            log.warning("columns: no column for %s", enumerate_words(map(repr, lacking)))
        return tuple(known)
    if len(columns) == 1:
        if values and all(FRACTION.fullmatch(value) for value in values):
            raise UserError(
                f"{source}: its column {columns[0]} holds numbers such as {values[0]}, and no class is called so",
                "the class whose probability it is",
                f"columns=[…,{columns[0]}:{class_names[-1]}]",
            )
        if others := sorted({value for value in values if value not in class_names}):
            log.warning(
                "%s: its column %s has %s, which the model does not know; it writes its own classes, such as %r",
                source, columns[0], enumerate_words(map(repr, others), limit=3), class_names[0],
            )  # fmt: skip
        return ("label",)
    if all(item is not None or column in FIELDS for column, item in zip(columns, meant, strict=True)):
        return tuple(column if item is None else item for column, item in zip(columns, meant, strict=True))
    strange = [column for column, item in zip(columns, meant, strict=True) if item is None and column not in FIELDS]
    raise UserError(
        f"columns: {enumerate_words(map(repr, strange))} {'is' if len(strange) == 1 else 'are'} no class of the model",
        f"one column for the label, or one for each of the classes {enumerate_words(map(repr, class_names))}",
        f"columns=[id,{strange[0]}:{class_names[0]},…] says which class a column is",
    )


def _plain(name: str) -> str:
    """A name without what spellings differ in."""
    return re.sub(r"[\W_]+", "", name.casefold().removeprefix("prob_"))


def _name_of(sample: Mapping[str, object], paths: Sequence[str]) -> str:
    """What a sample calls images: by whatever most of its rows are found."""
    hits = {name: sum(name_of(path) in sample for path in paths) for name, name_of in NAMES.items() if name != "path"}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] else "path"
