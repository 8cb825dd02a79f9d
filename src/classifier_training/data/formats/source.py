"""Base classes of data formats: their common settings, and data sets of several folders."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.settings import Alias, Often, OnlyIn, PathText, Resume, Trait
from classifier_training.core.storage.cache import set_limit
from classifier_training.core.storage.places import is_remote, path_of
from classifier_training.data.accounting import count_files, kind_of, merge_files
from classifier_training.data.index import NoSamplesError, SampleIndex, is_image, resolve_root, split_of
from classifier_training.data.remote import listed_once, open_walker
from classifier_training.data.samples import Samples
from classifier_training.data.walk import DataErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from classifier_training.data.walk import Walker

Side = Annotated[int, Field(ge=8, le=4096)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
NumWorkers = Annotated[int, Field(ge=0, le=256)]
NumFolds = Annotated[int, Field(ge=2, le=100)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
FractionOrZero = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Store = Literal["auto", "off", "on", "jpeg"]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set. A data format derives from this class, or from FolderSource, and implements how its rows are read.

    Args:
        image_size: side of the network's square input in pixels; auto takes the network's own, or less where the images
            are smaller than that.
        batch_size: largest number of images in a batch; the batches of an epoch are nearly equal. When left out, 64, or
            down to 16 where few images are fine-tuned, so that an epoch has about 20 steps. auto takes the largest
            that fits, up to 64 x trainer.accumulate_grad_batches, and accumulates gradients until a step has seen that
            many.
        num_workers: loader processes; auto takes none beside a busy CPU, up to eight beside a GPU.
        val_fraction: share of unsplit images kept for validation (0.15 when left out).
        test_fraction: share of unsplit images kept for the test (0.15 when left out); 0 for none, and then the run is
            scored on validation images, which chose its weights.
        group: what stays in one split: parent (the folder an image is in, parent2 the one above), 1 (the
            first folder below the root), re:PATTERN on the path, or a column or metadata field.
        group_duplicates: keep exact and near duplicates in one split.
        splits: a splits.csv that defines the splits; analyze writes labels that were edited in it as corrections.
        fold: train this fold alone, out of num_folds: its images are the validation split. The first is 0.
        num_folds: parts for cross-validation: a run is trained for each, and is validated on its part; the test split
            is the same for all.
        corrections: a file of corrected labels and splits; auto takes corrections.csv in the data folder, if there is
            one, null takes none.
        on_error: on an image, row or folder that cannot be read: raise stops and names it, skip leaves it out.
        store: whether decoded pixels are kept on disk: auto writes them while the first epoch runs, as JPEG or not
            at all when disk space is short; on writes them before training; jpeg takes little space, at some loss; off
            stores nothing.
        store_gb: disk space for the pixels of all data sets, in GB; half of the free space when left out.
    """

    image_size: Annotated[
        Side | Literal["auto"] | None,
        Often(5),
        Resume.FIXED,
        OnlyIn("train", "analyze"),
        Alias("imgsz", "img_size", "size"),
    ] = "auto"
    batch_size: Annotated[
        Count | Literal["auto"] | None, Often(6), Resume.DIVERGES, OnlyIn("train"), Alias("batch", "bs")
    ] = None
    num_workers: Annotated[
        NumWorkers | Literal["auto"], Resume.EXACT, Trait.MACHINE, OnlyIn("train", "analyze"), Alias("workers")
    ] = "auto"
    val_fraction: Annotated[
        Fraction | None, Resume.FIXED, Trait.SPLIT, OnlyIn("train"), Alias("valid_pct", "validation_split")
    ] = None
    test_fraction: Annotated[FractionOrZero | None, Resume.FIXED, Trait.SPLIT, OnlyIn("train")] = None
    group: Annotated[Count | str | None, Resume.FIXED] = None
    group_duplicates: Annotated[bool, Resume.FIXED, Trait.SPLIT, OnlyIn("train")] = False
    splits: Annotated[PathText | None, Resume.FIXED, Trait.SPLIT, OnlyIn("train", "analyze")] = None
    fold: Annotated[NonNegative | None, Resume.FIXED, Trait.SPLIT, OnlyIn("train")] = None
    num_folds: Annotated[NumFolds | None, Resume.FIXED, Trait.SPLIT, OnlyIn("train")] = None
    corrections: Annotated[Literal["auto"] | PathText | None, Resume.FIXED] = "auto"
    on_error: Annotated[Literal["raise", "skip"], Resume.EXACT] = "raise"
    store: Annotated[Store, Resume.FIXED, Trait.MACHINE, OnlyIn("train")] = "auto"
    store_gb: Annotated[Positive | None, Resume.FIXED, Trait.MACHINE, OnlyIn("train")] = None

    @property
    def is_named(self) -> bool:
        """Whether the settings name the data."""
        return True

    @property
    def trains_all_folds(self) -> bool:
        """Whether a run is trained for each of the folds."""
        return self.num_folds is not None and self.fold is None

    @property
    def named_size(self) -> int | None:
        """Side of the network's input in pixels if the settings name it; None for auto and null."""
        return None if self.image_size == "auto" else self.image_size

    def pinned(self) -> Self:
        """Return the source with everything named that may be another one tomorrow, such as the newest version."""
        return self

    def read(self) -> SampleIndex:
        """List the samples.

        Raises:
            UserError: when there is no data or a row is invalid, with file and line.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FolderSource(DataSource):
    """A data set in the user's folder.

    Args:
        root: the data folder, or several whose classes are merged.
        follow_links: follow links to folders, and links that lead out of the data folder.
        cache_gb: disk space for files of remote folders, of all data sets together, in GB; a quarter of the free space
            when left out, and 0 for none.
    """

    root: Annotated[PathText | list[PathText] | None, Often(1), Resume.DIVERGES, Trait.MACHINE] = None
    follow_links: Annotated[bool, Resume.FIXED] = False
    cache_gb: Annotated[NonNegativeFloat | None, Resume.EXACT, Trait.MACHINE] = None

    @property
    def is_named(self) -> bool:
        """Whether the settings name the data."""
        return self.root is not None

    def read(self) -> SampleIndex:
        """List the samples of all roots; see the base class."""
        roots = self.root if isinstance(self.root, list) else [self.root]
        if any(is_remote(root) for root in roots if root is not None):
            set_limit(self.cache_gb)
        with listed_once():
            return merge_roots([self._read_root(root) for root in roots])

    def _read_root(self, root: str | None) -> SampleIndex:
        walker = self.walker(resolve_root(root))
        return self.account(walker, lambda: self.read_one(walker))

    def account(self, walker: Walker, read: Callable[[], SampleIndex]) -> SampleIndex:
        """Read the samples below one root, count the files that are none, and say what is left out.

        Raises:
            UserError: as `read` raises it.
        """
        try:
            index = read()
        except NoSamplesError as error:
            files = count_files(
                walker.root, lambda path: "read" if is_image(path) else kind_of(path), follow_links=self.follow_links
            )
            if not files.missed():
                raise
            words, remedy = files.missed()[0]
            raise UserError(f"{error.came}; not read: {words}", error.expected, remedy) from error
        walker.report()
        walker.errors.report(walker.root)
        if index.files is not None:
            return index
        files = count_files(walker.root, _classifier(index), follow_links=self.follow_links)
        files.log()
        return replace(index, files=files)

    def walker(self, root: Path) -> Walker:
        """Return a walker through the files of one root."""
        return open_walker(root, follow_links=self.follow_links, errors=DataErrors(self.on_error))

    def read_one(self, walker: Walker) -> SampleIndex:
        """List the samples below one root."""
        raise NotImplementedError


def merge_roots(indexes: Sequence[SampleIndex]) -> SampleIndex:
    """Merge the samples of several roots; their paths are then relative to the folder that contains all roots.

    Classes of the same name are one class.

    Raises:
        UserError: when there is no root, or one of them is inside another.
    """
    if len(indexes) == 1:
        return indexes[0]
    if not indexes:
        raise UserError("data.root=[] names no folder", "one folder or more", "data.root=[/my/images,/more/images]")
    _refuse_nested([index.root for index in indexes])
    common = _common([index.root for index in indexes])
    prefixes = [index.root.relative_to(common).as_posix() for index in indexes]
    named = list(zip(prefixes, indexes, strict=True))
    samples = [replace(index.samples, paths=index.paths.prefixed(f"{prefix}/")) for prefix, index in named]
    return SampleIndex(
        common,
        Samples.joined(samples),
        tuple(f"{prefix}/{name}" for prefix, index in named for name in index.empty_classes),
        tuple(f"{prefix}/{path}" for prefix, index in named for path in index.unlabelled),
        tuple(file for index in indexes for file in index.label_files),
        merge_files(common, [(prefix, index.files) for prefix, index in named if index.files is not None]),
    )


def _classifier(index: SampleIndex) -> Callable[[str], str]:
    """Return what tells the kind of a file below the root by its relative path; `read` for one that is read."""
    listing = [file for file in index.label_files if file.is_relative_to(index.root)]
    kinds = dict.fromkeys((file.relative_to(index.root).as_posix() for file in listing), "labels")
    kinds |= dict.fromkeys(index.paths, "read")
    kinds |= dict.fromkeys(index.unlabelled, "unlabelled")
    is_split, is_listed = bool(index.present_splits()), bool(index.label_files)

    def classify(path: str) -> str:
        if path in kinds or not is_image(path):
            return kinds.get(path) or kind_of(path)
        if is_listed:
            return "unlisted"
        first, *inner = path.split("/")
        return "beside" if is_split and inner and not split_of(first) else "loose"

    return classify


def _common(roots: Sequence[Path]) -> Path:
    """The folder that contains all roots.

    Raises:
        UserError: when there is none, because they are in several stores.
    """
    stores = {tuple(str(root).split("/")[:3]) if is_remote(root) else () for root in roots}
    if len(stores) > 1:
        raise UserError(
            f"data.root names folders in several stores: {enumerate_words(map(str, roots))}",
            "folders of one bucket, or folders of this machine",
            "copy them to one place, or list the images of one store in a table: data.file=…",
        )
    return path_of(os.path.commonpath(roots))


def _refuse_nested(roots: Sequence[Path]) -> None:
    for place, root in enumerate(roots):
        for other in roots[place + 1 :]:
            if root.is_relative_to(other) or other.is_relative_to(root):
                raise UserError(
                    f"data.root names {root} and {other}, one of which contains the other",
                    "folders of which none is inside another",
                    f"data.root={min(root, other, key=lambda path: len(path.parts))}",
                )
