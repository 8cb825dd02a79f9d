"""The sample table every form of data is read into, before and after it is split."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.columns import Texts
from classifier_training.core.errors import UserError, enumerate_words, shown
from classifier_training.core.image_files import image_extensions
from classifier_training.core.labels import sort_labels
from classifier_training.core.storage.places import is_remote, path_of
from classifier_training.core.types import SPLITS, TEST, TRAIN, VAL, SplitTable
from classifier_training.data.samples import Sample, Samples

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from classifier_training.core.columns import Categories
    from classifier_training.data.accounting import FolderFiles

log = logging.getLogger(__name__)

SPLIT_FOLDERS = {
    "train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST, "testing": TEST,
}  # fmt: skip
"""Folder names that mean a split, in whatever case, and perhaps with _set after them."""


class NoSamplesError(UserError):
    """A data folder without a single sample."""


@dataclass(frozen=True)
class SampleIndex:
    """All samples below one root, in a fixed order, by column.

    Args:
        root: absolute folder that the paths are relative to.
        samples: the rows; a sequence of `Sample` becomes columns.
        empty_classes: class folders without a single image.
        unlabelled: paths, relative to the root, of images of a test split that comes without labels.
        label_files: paths of the files that list the samples, if any do.
        files: every file below the root, as far as they were counted.
    """

    root: Path
    samples: Samples
    empty_classes: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    label_files: tuple[Path, ...] = ()
    files: FolderFiles | None = field(default=None, compare=False)

    if TYPE_CHECKING:

        def __init__(
            self,
            root: Path,
            samples: Iterable[Sample],
            empty_classes: tuple[str, ...] = (),
            unlabelled: tuple[str, ...] = (),
            label_files: tuple[Path, ...] = (),
            files: FolderFiles | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Refuse names that cannot be written to the run's files.

        Raises:
            UserError: for the first that is not UTF-8.
        """
        object.__setattr__(self, "samples", Samples.of(self.samples))
        columns = (Texts.of([str(self.root)]), self.paths, Texts.of(self.labels.values))
        name = next((name for column in columns if (name := column.first_not_utf8()) is not None), None)
        if name is not None:
            raise UserError(f"{name!r}: the name is not UTF-8", "names in UTF-8", "rename the file, folder or label")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def paths(self) -> Texts:
        """Path of each sample, relative to the root [N]."""
        return self.samples.paths

    @property
    def labels(self) -> Categories[str]:
        """Label of each sample [N]."""
        return self.samples.labels

    @property
    def splits(self) -> Categories[str]:
        """Split of each sample [N]."""
        return self.samples.splits

    @property
    def groups(self) -> Categories[str]:
        """Group of each sample [N]."""
        return self.samples.groups

    def absolute(self, relative: str) -> str:
        """Return the absolute path of a path that is relative to the root."""
        return absolute_prefix(self.root) + relative

    def absolute_paths(self) -> Texts:
        """Return the absolute path of each sample [N]; each is joined when it is read."""
        return self.paths.prefixed(absolute_prefix(self.root))

    def present_splits(self) -> set[str]:
        """The splits that the rows name."""
        return {split for split in self.splits.counts() if split}

    def with_splits(self, splits: Iterable[str]) -> SampleIndex:
        """Return the same rows, each assigned to the split at its place in `splits`."""
        return replace(self, samples=self.samples.with_columns(splits=splits))

    def with_groups(self, groups: Iterable[str]) -> SampleIndex:
        """Return the same rows, each in the group at its place in `groups`."""
        return replace(self, samples=self.samples.with_columns(groups=groups))

    def without(self, paths: Collection[str]) -> SampleIndex:
        """Return the index without the rows of these relative paths."""
        rows = self.paths.find(paths)
        if not len(rows):
            return self
        kept = np.ones(len(self), bool)
        kept[rows] = False
        return replace(self, samples=self.samples[kept])


def absolute_prefix(root: Path) -> str:
    """Return what the absolute paths of all files below a root begin with."""
    return f"{str(root).rstrip('/')}/"


@dataclass(frozen=True)
class SplitData:
    """Data ready for training: classes, and a table for each split.

    Args:
        root: absolute folder of the data.
        class_names: the classes of the training split alone; their place is their number. They are sorted as strings,
            but for those of a run that is trained again, which keep their places before the new ones.
        tables: by split name; a split without samples is absent.
    """

    root: Path
    class_names: tuple[str, ...]
    tables: dict[str, SplitTable]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def counts(self, split: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Samples of each class in a split, int64 [K]; zeros when there is no such split."""
        table = self.tables.get(split)
        return np.zeros(self.num_classes, np.int64) if table is None else table.class_counts(self.num_classes)


def tabulate(index: SampleIndex, first: Sequence[str] = ()) -> SplitData:
    """Number the classes and make one table a split.

    Labels are matched by name. A label that the training split lacks is left out of the other splits with a warning.

    Args:
        index: every sample with its split.
        first: classes that are numbered before the others, in this order, as far as the training split has them.

    Raises:
        UserError: when fewer than two classes have training samples.
    """
    counts = {split: index.labels[index.splits.where(split)].counts() for split in SPLITS}
    kept = tuple(name for name in first if name in counts[TRAIN])
    class_names = (*kept, *sort_labels(counts[TRAIN].keys() - set(kept)))
    if len(class_names) < 2:
        found = ", ".join(repr(name) for name in class_names) or "none"
        raise UserError(
            f"{index.root}: the training split has {len(class_names)} class(es): {found}",
            "at least two classes with training images",
            "check data.root: it holds one folder a class, or train/ and val/ with one folder a class each",
        )
    for split in (VAL, TEST):
        _report_labels(split, counts[split], class_names)
    return SplitData(index.root, class_names, split_tables(index, class_names, {split: split for split in SPLITS}))


def split_tables(index: SampleIndex, class_names: Sequence[str], names: Mapping[str, str]) -> dict[str, SplitTable]:
    """Make one table a split, of the samples whose label is one of the class names.

    Args:
        index: the samples.
        class_names: their place is their number.
        names: of the tables, by the split of their samples; a table without samples is left out.
    """
    is_known = index.labels.places_in(class_names) >= 0
    tables = {}
    for split, name in names.items():
        rows = np.flatnonzero(is_known & index.splits.where(split))
        if len(rows):
            tables[name] = split_table(name, index.root, index.samples[rows], class_names)
    return tables


def split_table(name: str, root: Path, samples: Iterable[Sample], class_names: Sequence[str]) -> SplitTable:
    """Make the table of samples whose labels are all among the class names.

    Raises:
        KeyError: for a label that is no class name.
    """
    columns = Samples.of(samples)
    targets = columns.labels.places_in(class_names)
    if (targets < 0).any():
        raise KeyError(columns.labels[int(np.argmin(targets))])
    return SplitTable(
        name=name, paths=columns.paths.prefixed(absolute_prefix(root)), targets=targets, groups=columns.groups
    )


def _report_labels(split: str, present: Mapping[str, int], class_names: Sequence[str]) -> None:
    if not present:
        return
    unknown = sorted(present.keys() - set(class_names))
    if unknown:
        log.warning(
            "%s has %d images of %d classes that train does not have, left out: %s",
            split, sum(present[label] for label in unknown), len(unknown), enumerate_words(map(repr, unknown)),
        )  # fmt: skip
    missing = sorted(set(class_names) - present.keys())
    if missing:
        log.warning("%s has no image of %s; their metrics will be missing", split, enumerate_words(map(shown, missing)))


def resolve_root(root: str | None) -> Path:
    """Return the data folder as an absolute path.

    Raises:
        UserError: when it is not given, does not exist or is no folder.
    """
    if root is None:
        raise UserError(
            "data.root is missing",
            "a folder of images",
            "data.root=/my/images   (data=digits is a built-in sample)",
        )
    path = path_of(root)
    if is_remote(root):
        return path
    if not path.is_dir():
        is_file = path.exists()
        raise UserError(
            f"data.root={path.absolute()} {'is a file, not a folder' if is_file else 'does not exist'}",
            "a folder with one sub-folder a class, with train/ and val/, or with annotations (JSONL, CSV, Parquet)",
            "name the folder that holds the class folders: data.root=/my/images"
            if is_file
            else "check the spelling, or give the full path: data.root=/my/images",
        )
    return path.resolve()


def split_of(folder_name: str) -> str:
    """Return the split that a folder's name stands for; an empty text if none."""
    name = folder_name.casefold()
    return SPLIT_FOLDERS.get(name.removesuffix("_set").removesuffix("-set"), "")


def is_image(path: Path | str) -> bool:
    """Whether a file name has the extension of an image."""
    name = str(path)
    begin = name.rfind(".")
    return begin > name.rfind("/") + 1 and name[begin:].lower() in image_extensions()
