"""How a table of images is laid out: its separator and header, and which columns hold paths, labels and splits.

A column holds paths if files of its names exist, so that tables of ids work, too: Kaggle's `id,label` for train/ID.jpg.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.runtime import setting
from classifier_training.data.formats.listing import image_folders, locate
from classifier_training.data.index import is_image, split_of
from classifier_training.data.walk import LinkOutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from classifier_training.data.walk import Walker

SEPARATORS = ",;\t|"
MAX_SAMPLED = 40
"""Rows, spread over the table, by which columns are recognized."""

MAX_COLUMNS = 20
"""Columns without a usual name that may hold paths."""

MAX_FOLDERS = 200
"""Folders in which the files of bare names are looked for."""

PATH_NAMES = (
    "path", "image_path", "img_path", "filepath", "filepaths", "file_path", "filename", "file_name", "file", "image",
    "img", "image_name", "image_id", "img_id", "id",
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "target")
SPLIT_NAMES = ("split", "set", "subset", "partition", "data set", "data_set", "dataset", "phase", "usage")
"""Usual names of columns, in lower case; the first that a table has is taken."""

ONE = frozenset({"1", "1.0", "true"})
ZERO = frozenset({"0", "0.0", "false", ""})


MIN_ONE_HOT = 0.9
"""Of the rows, those that have exactly one 1 where columns of 0 and 1 are classes and there are other columns, too."""


@dataclass(frozen=True)
class Wanted:
    """What the user's settings say of a table; None for what is to be found."""

    path: str | None = None
    label: str | None = None
    folder: str | None = None
    suffix: str | None = None


@dataclass(frozen=True)
class Layout:
    """The columns of a table.

    Args:
        path: column of the paths or names.
        label: column of the labels; None where there is none.
        one_hot: columns of 0 and 1, one for each class, if the labels are stored so.
        split: column of the splits, if there is one.
        group: column of the groups, if there is one.
        folder: what comes before each name.
        folders: others, in which the names are that are not in it.
        suffix: what comes after each name.
        prefix: what paths from another computer begin with, which is left out.
        has_backslashes: whether backslashes part the folders of paths.
        is_complete: whether the files of all sampled rows exist.
    """

    path: str
    label: str | None
    one_hot: tuple[str, ...] = ()
    split: str | None = None
    group: str | None = None
    folder: str = ""
    folders: tuple[str, ...] = ()
    suffix: str = ""
    prefix: str = ""
    has_backslashes: bool = False
    is_complete: bool = False

    @property
    def has_labels(self) -> bool:
        """Whether there is a column with labels, or one for each class."""
        return self.label is not None or bool(self.one_hot)

    @property
    def is_of_names(self) -> bool:
        """Whether it names files that lie together in a folder, or in parts of one, which are then no classes."""
        parts = {re.sub(r"\d+", "", folder) for folder in (self.folder, *self.folders)}
        return bool(self.folder) and len(parts) == 1

    def names(self, row: Mapping[str, Any]) -> list[str]:
        """The paths of a row's image in each of the folders; none where it has none."""
        name = self.name(row)
        if name is None:
            return []
        return [name, *(f"{folder}{name.removeprefix(self.folder)}" for folder in self.folders)]

    def name(self, row: Mapping[str, Any]) -> str | None:
        """The path of a row's image, as the table and the settings give it; None where there is none."""
        value = row[self.path]
        if value is None or isinstance(value, float):
            return None
        text = (str(value).replace("\\", "/") if self.has_backslashes else str(value)).removeprefix(self.prefix)
        suffix = "" if self.suffix and text.lower().endswith(self.suffix.lower()) else self.suffix
        return f"{self.folder}/{text}{suffix}" if self.folder else f"{text}{suffix}"

    def label_of(self, row: Mapping[str, Any], where: str) -> str | None:
        """The label of a row; None where it has none.

        Raises:
            UserError: when not exactly one of the columns of 0 and 1 is 1.
        """
        if not self.one_hot:
            value = None if self.label is None else row[self.label]
            return None if value is None else str(value)
        chosen = [name for name in self.one_hot if str(row[name]).lower() in ONE]
        if len(chosen) != 1:
            raise UserError(
                f"{where}: {len(chosen)} of the {len(self.one_hot)} columns of 0 and 1 are 1",
                "one label for each image",
                "correct the row, or leave such rows out: data.on_error=skip",
            )
        return chosen[0]

    def words(self) -> str:
        """The columns in one line, as settings where there are such."""
        labels = f"labels from {len(self.one_hot)} columns of 0 and 1" if self.one_hot else "no labels"
        if self.label is not None:
            labels = f"labels from column {self.label!r}"
        places = [f"without {self.prefix!r}"] if self.prefix else []
        places += [setting(f"data.{key}", getattr(self, key)) for key in ("folder", "suffix") if getattr(self, key)]
        return f"paths from column {self.path!r}{f' ({chr(32).join(places)})' if places else ''}, {labels}"


def find_separator(lines: Iterable[str]) -> str:
    """Return the character that parts the first lines into the same number of columns, a comma if none does."""
    head = list(itertools.islice(lines, MAX_SAMPLED))
    widths = {
        mark: [len(row) for row in csv.reader(head, delimiter=mark, skipinitialspace=True) if row]
        for mark in SEPARATORS
    }
    alike = [mark for mark, found in widths.items() if found and found[0] > 1 and len(set(found)) == 1]
    return alike[0] if alike else max(SEPARATORS, key=lambda mark: (widths[mark] or [0])[0])


def has_header(first: Sequence[str], wanted: Wanted) -> bool:
    """Whether a table's first row names the columns: no cell of it is an image's path."""
    named = {wanted.path, wanted.label} & set(first)
    return bool(named) or not any(map(is_image, first))


def find_layout(
    file: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]], walker: Walker, wanted: Wanted
) -> Layout:
    """Find the columns of a table.

    Args:
        file: the table.
        names: of its columns.
        rows: some of its rows, spread over it.
        walker: of the data folder.
        wanted: what the settings say.

    Raises:
        UserError: when no column has paths, or several may be the labels, with the setting that decides.
    """
    for key, name in (("path_column", wanted.path), ("label_column", wanted.label)):
        if name is not None and name not in names:
            close = nearest(name, names) or list(names[:1])
            raise UserError(
                f"{file}: no column {name!r} among {enumerate_words(map(repr, names)) or 'none'}",
                "the name of a column",
                f"data=csv {setting(f'data.{key}', close[0] if close else '…')}",
            )
    found, num_found = _find_paths(file, names, rows, walker, wanted)
    path = found.path
    split = _usual(names, SPLIT_NAMES)
    if split is not None and split.casefold() != "split" and not all(split_of(str(row[split])) for row in rows):
        split = None
    group = _usual(names, ("group",))
    filled = {name for name in names if not rows or any(str(row[name] or "").strip() for row in rows)}
    others = [name for name in names if name not in (path, split, group) and name in filled]
    one_hot = () if wanted.label is not None or _usual(others, LABEL_NAMES) else _one_hot(file, others, rows)
    is_complete = bool(rows) and num_found == len(rows)
    try:
        label = None if one_hot else wanted.label or _find_label(file, others, rows)
    except ManyLabelsError as error:
        error.layout = replace(found, is_complete=is_complete)
        raise
    return replace(found, label=label, one_hot=one_hot, split=split, group=group, is_complete=is_complete)


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    folded = {name.casefold(): name for name in reversed(names)}
    return next((folded[name] for name in usual if name in folded), None)


def _find_paths(
    file: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]], walker: Walker, wanted: Wanted
) -> tuple[Layout, int]:
    """Return the column, folder and ending by which most sampled rows name an existing file, and how many do.

    Raises:
        UserError: when there is no such column, and none that is called like one.
    """
    usual = [name for word in PATH_NAMES for name in names if name.casefold() == word]
    others = [name for name in names if name not in usual and _may_be_paths(name, rows, wanted)][:MAX_COLUMNS]
    columns = [wanted.path] if wanted.path is not None else [*usual, *others]
    # Numbers of classes may be names of files, too.
    columns.sort(key=lambda name: not _are_images(name, rows))
    few = [rows[place] for place in sorted({0, len(rows) // 2, len(rows) - 1})] if rows else []
    best, most = Layout(columns[0] if columns else "", None, folder=wanted.folder or "", suffix=wanted.suffix or ""), 0
    for column in columns:
        for layout in _layouts(file, column, rows, walker, wanted):
            # A wide table beside many folders has many layouts, and almost all name no file.
            if not any(_exists(layout.name(row), file, walker) for row in few):
                continue
            number = sum(_exists(layout.name(row), file, walker) for row in rows)
            if number > most:
                best, most = layout, number
            if rows and number == len(rows):
                return layout, number
    if 0 < most < len(rows) and best.folder and wanted.folder is None:
        whole = _in_several(best, file, rows, walker)
        if whole is not None:
            return whole, len(rows)
    is_named = wanted.path is not None or wanted.folder is not None or wanted.suffix is not None
    if most or not rows or (names and (is_named or (usual and is_image(str(rows[0][best.path]))))):
        return best, most
    raise UserError(
        f"{file}: no column has the paths of images below {walker.root}; its columns are "
        f"{enumerate_words(map(repr, names)) or 'none'}",
        "a column with paths, or with names of files in data.folder that end in data.suffix",
        f"data=csv {setting('data.path_column', best.path or '…')} data.folder=FOLDER data.suffix=.jpg",
    )


def _may_be_paths(name: str, rows: Sequence[Mapping[str, Any]], wanted: Wanted) -> bool:
    """Whether a column without a usual name may hold paths: it is none of labels or splits, nor mostly repeats."""
    if name == wanted.label or name.casefold() in (*LABEL_NAMES, *SPLIT_NAMES):
        return _are_images(name, rows)
    return _are_images(name, rows) or len({str(row[name]) for row in rows}) > len(rows) / 2


def _are_images(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return bool(rows) and sum(is_image(str(row[name])) for row in rows) > len(rows) / 2


def _in_several(found: Layout, file: Path, rows: Sequence[Mapping[str, Any]], walker: Walker) -> Layout | None:
    """Return the layout with further folders, if all sampled rows have an image in one of them."""
    left = [row for row in rows if not _exists(found.name(row), file, walker)]
    folders: list[str] = []
    for folder in _folders(file, walker, Wanted()):
        other = replace(found, folder=folder)
        rest = [row for row in left if not _exists(other.name(row), file, walker)]
        if folder and len(rest) < len(left):
            folders.append(folder)
            left = rest
        if not left:
            return replace(found, folders=tuple(folders))
    return None


def _layouts(
    file: Path, column: str, rows: Sequence[Mapping[str, Any]], walker: Walker, wanted: Wanted
) -> Iterator[Layout]:
    """Yield the ways in which a column may name files, the simplest first."""
    values = [str(row[column]) for row in rows]
    has_backslashes = any("\\" in value and "/" not in value for value in values)
    texts = [value.replace("\\", "/") for value in values] if has_backslashes else values
    for prefix in ["", *_foreign_beginnings(texts)]:
        for folder in _folders(file, walker, wanted):
            for suffix in _suffixes(walker, folder, texts, wanted):
                yield Layout(column, None, folder=folder, suffix=suffix, prefix=prefix, has_backslashes=has_backslashes)


def _foreign_beginnings(paths: Sequence[str]) -> list[str]:
    """Folders that all paths begin with, if all are absolute and so of another computer; the shortest first."""
    if not paths or not all(re.match(r"/|[A-Za-z]:/", path) for path in paths):
        return []
    try:
        parts = os.path.commonpath([path.rpartition("/")[0] for path in paths]).split("/")
    except ValueError:
        return []  # of several drives
    return ["/".join(parts[:number]) + "/" for number in range(1, len(parts) + 1)]


def _folders(file: Path, walker: Walker, wanted: Wanted) -> list[str]:
    """Folders, relative to the root, in which bare names may be: first none, then the one called like the table."""
    if wanted.folder is not None:
        return [wanted.folder.strip("/")]
    near = [folder.name for folder in walker.folders(walker.root)]
    near.sort(key=lambda name: (not name.casefold().startswith(file.stem.casefold()), *_by_split(name)))
    far = [f"{name}/{inner.name}" for name in near[:20] for inner in walker.folders(walker.root / name)]
    return ["", *near, *far][:MAX_FOLDERS]


def _by_split(folder: str) -> tuple[bool, bool]:
    """A key that sorts folders of training images first, and those of test images last."""
    name = folder.casefold()
    return not name.startswith("train"), name.startswith("test")


def _suffixes(walker: Walker, folder: str, names: Sequence[str], wanted: Wanted) -> list[str]:
    if wanted.suffix is not None:
        return [wanted.suffix]
    if all(map(is_image, names)):
        return [""]
    files = walker.loose_files(walker.root / folder) if folder else walker.loose_files(walker.root)
    endings = Counter(name[name.rfind(".") :] for name in files if is_image(name))
    return ["", *(ending for ending, _ in endings.most_common())]


def _exists(name: Any, file: Path, walker: Walker) -> bool:
    if not name:
        return False
    try:
        locate(str(name), "", image_folders(file, walker), walker)
    except LinkOutError:
        return True
    except UserError:
        return False
    return True


class ManyLabelsError(UserError):
    """Several columns of a table may be its labels.

    Attributes:
        layout: of its paths.
    """

    layout: Layout | None = None


def _find_label(file: Path, others: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the column with the labels; None where there is no column that may be."""
    usual = _usual(others, LABEL_NAMES)
    if usual is not None or len(others) < 2:
        return usual or (others[0] if others else None)
    distinct = {name: len({str(row[name]) for row in rows}) for name in others}
    repeating = [name for name in others if 1 < distinct[name] <= len(rows) / 2]
    # A class has many images; a number of a session or patient has fewer.
    frequent = [name for name in repeating if distinct[name] <= len(rows) / 4]
    likely = (frequent or repeating or others)[0]
    raise ManyLabelsError(
        f"{file}: {len(others)} columns may be the label: {enumerate_words(map(repr, others))}",
        "one column called label, or the name of the one with the labels",
        f"data=csv {setting('data.label_column', likely)}",
    )


def _one_hot(file: Path, others: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the columns of 0 and 1, one for each class; none where there are fewer than two.

    Raises:
        UserError: when rows have several ones.
    """
    found = tuple(name for name in others if rows and all(str(row[name]).lower() in ONE | ZERO for row in rows))
    if len(found) < 2:
        return ()
    ones = [sum(str(row[name]).lower() in ONE for name in found) for row in rows]
    if ones.count(1) < MIN_ONE_HOT * len(rows) and len(found) < len(others):
        return ()  # flags beside the label
    if max(ones) > 1:
        raise UserError(
            f"{file}: {len(found)} columns of 0 and 1 ({enumerate_words(found, limit=6)}), and rows with several ones: "
            "images with more than one label",
            "one label for each image",
            f"data=csv {setting('data.label_column', found[0])} learns one of these columns",
        )
    return found
