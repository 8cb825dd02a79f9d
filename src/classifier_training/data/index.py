"""The sample table every form of data is read into, before and after it is split."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.images import image_extensions
from classifier_training.core.labels import label_indices, sort_labels
from classifier_training.core.places import is_remote, path_of
from classifier_training.core.types import SPLITS, TEST, TRAIN, VAL, SplitTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from classifier_training.data.accounting import FolderFiles

log = logging.getLogger(__name__)

SPLIT_FOLDERS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
"""Folder names that mean a split, in whatever case."""


class NoSamplesError(UserError):
    """A data folder without a single sample."""


@dataclass(frozen=True)
class Sample:
    """One sample: an image and its label.

    Args:
        path: relative to the data root, with forward slashes.
        label: class name; an empty one is legal.
        split: train, val or test; empty when the data does not say.
        group: samples of one group (a session, a video) stay in one split; empty when unknown.
        metadata: further fields by name; reports slice by them, and data.group may name one.
    """

    path: str
    label: str
    split: str = ""
    group: str = ""
    metadata: Mapping[str, Any] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SampleIndex:
    """All samples below one root, in a fixed order.

    Args:
        root: absolute folder that the paths are relative to.
        samples: the rows.
        empty_classes: class folders without a single image.
        unlabelled: paths, relative to the root, of images of a test split that comes without labels.
        label_files: paths of the files that list the samples, if any do.
        files: every file below the root, as far as they were counted.
    """

    root: Path
    samples: tuple[Sample, ...]
    empty_classes: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    label_files: tuple[Path, ...] = ()
    files: FolderFiles | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse names that cannot be written to the run's files.

        Raises:
            UserError: for the first that is not UTF-8.
        """
        if _is_utf8("".join([str(self.root), *[sample.path + sample.label for sample in self.samples]])):
            return
        for name in (str(self.root), *(text for sample in self.samples for text in (sample.path, sample.label))):
            if not _is_utf8(name):
                raise UserError(
                    f"{name!r}: the name is not UTF-8", "names in UTF-8", "rename the file, folder or label"
                )

    def present_splits(self) -> set[str]:
        """The splits that the rows name."""
        return {sample.split for sample in self.samples if sample.split}

    def with_splits(self, splits: Iterable[str]) -> SampleIndex:
        """Return the same rows, each assigned to the split at its place in `splits`."""
        assigned = zip(self.samples, splits, strict=True)
        return replace(
            self,
            samples=tuple(
                Sample(sample.path, sample.label, split, sample.group, sample.metadata) for sample, split in assigned
            ),
        )

    def with_groups(self, groups: Iterable[str]) -> SampleIndex:
        """Return the same rows, each in the group at its place in `groups`."""
        assigned = zip(self.samples, groups, strict=True)
        return replace(self, samples=tuple(replace(sample, group=group) for sample, group in assigned))

    def without(self, paths: set[str]) -> SampleIndex:
        """Return the index without the rows of these relative paths."""
        return replace(self, samples=tuple(sample for sample in self.samples if sample.path not in paths))


@dataclass(frozen=True)
class SplitData:
    """Data ready for training: classes, and a table for each split.

    Args:
        root: absolute folder of the data.
        class_names: the classes of the training split alone, sorted as strings; their place is their number.
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


def tabulate(index: SampleIndex) -> SplitData:
    """Number the classes and make one table a split.

    Labels are matched by name. A label that the training split lacks is left out of the other splits with a warning.

    Raises:
        UserError: when fewer than two classes have training samples.
    """
    class_names = sort_labels(sample.label for sample in index.samples if sample.split == TRAIN)
    if len(class_names) < 2:
        found = ", ".join(repr(name) for name in class_names) or "none"
        raise UserError(
            f"{index.root}: the training split has {len(class_names)} class(es): {found}",
            "at least two classes with training images",
            "check data.root: it holds one folder a class, or train/ and val/ with one folder a class each",
        )
    for split in SPLITS:
        _report_labels(split, [sample for sample in index.samples if sample.split == split], class_names)
    return SplitData(index.root, class_names, split_tables(index, class_names, {split: split for split in SPLITS}))


def split_tables(index: SampleIndex, class_names: Sequence[str], names: Mapping[str, str]) -> dict[str, SplitTable]:
    """Make one table a split, of the samples whose label is one of the class names.

    Args:
        index: the samples.
        class_names: their place is their number.
        names: of the tables, by the split of their samples; a table without samples is left out.
    """
    known = set(class_names)
    tables = {}
    for split, name in names.items():
        rows = [sample for sample in index.samples if sample.split == split and sample.label in known]
        if rows:
            tables[name] = split_table(name, index.root, rows, class_names)
    return tables


def split_table(name: str, root: Path, samples: Sequence[Sample], class_names: Sequence[str]) -> SplitTable:
    """Make the table of samples whose labels are all among the class names."""
    return SplitTable(
        name=name,
        paths=[str(root / sample.path) for sample in samples],
        targets=label_indices((sample.label for sample in samples), class_names),
        groups=[sample.group for sample in samples],
    )


def _report_labels(split: str, rows: Sequence[Sample], class_names: Sequence[str]) -> None:
    if split == TRAIN or not rows:
        return
    present = Counter(sample.label for sample in rows)
    unknown = sorted(present.keys() - set(class_names))
    if unknown:
        log.warning(
            "%s has %d images of %d classes that train does not have, left out: %s",
            split, sum(present[label] for label in unknown), len(unknown), enumerate_words(map(repr, unknown)),
        )  # fmt: skip
    missing = sorted(set(class_names) - present.keys())
    if missing:
        log.warning("%s has no image of %s; their metrics will be missing", split, enumerate_words(missing))


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
    return SPLIT_FOLDERS.get(folder_name.casefold(), "")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_image(path: Path | str) -> bool:
    """Whether a file name has the extension of an image."""
    name = str(path)
    begin = name.rfind(".")
    return begin > name.rfind("/") + 1 and name[begin:].lower() in image_extensions()
