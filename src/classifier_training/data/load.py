"""From a data source to tables that are ready for training: read, checked, split, labels numbered."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.columns import Texts
from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.storage.places import path_of
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.accounting import count_files, kind_of
from classifier_training.data.checking.statistics import dataset_statistics, scan_headers
from classifier_training.data.corrections import apply_corrections, find_corrections
from classifier_training.data.index import is_image, tabulate
from classifier_training.data.replay import keep_splits, refuse_alike, refuse_nothing_new, replayed_rows
from classifier_training.data.splitting.groups import (
    assign_groups,
    group_duplicates,
    near_duplicates,
    report_straddling,
)
from classifier_training.data.splitting.splits import (
    SplitRequest,
    complete_splits,
    give_splits,
    report_overlap,
    restore_splits,
    take_folds,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any, Literal

    from numpy.typing import NDArray

    from classifier_training.core.image_files import UnreadableImageError
    from classifier_training.data.checking.statistics import HeaderScan
    from classifier_training.data.corrections import Corrected, LabelCorrection
    from classifier_training.data.formats.source import DataSource
    from classifier_training.data.image_settings import Depth
    from classifier_training.data.index import SampleIndex, SplitData
    from classifier_training.data.replay import EarlierRun
    from classifier_training.data.samples import Sample, Samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedData:
    """A data set, checked and split.

    Args:
        index: every sample with its split.
        splits: classes and tables.
        image_sizes: width and height of each file, int32 [N, 2].
        training_sizes: width and height of each image of the training split, int32 [N, 2].
        statistics: of the data set, as plain values.
        copies: groups of files with the same bytes, by relative path.
        depth: which files have more than 8 bits.
        corrections: of labels and splits, as they are applied.
        folds: of a cross-validation, the fold of each sample of the index, int64 [N], whose splits are those of fold 0;
            -1 for a sample of the test split and one that every fold trains on.
        replayed: of a run that trains again, which samples the run before was trained on, bool [N].
    """

    index: SampleIndex
    splits: SplitData
    image_sizes: NDArray[np.int32]
    training_sizes: NDArray[np.int32]
    statistics: dict[str, Any]
    copies: list[tuple[str, ...]]
    depth: Depth
    corrections: tuple[LabelCorrection, ...] = ()
    folds: NDArray[np.int64] | None = None
    replayed: NDArray[np.bool_] | None = None

    @property
    def replayed_in_train(self) -> NDArray[np.bool_] | None:
        """Which rows of the training table are replayed [M]; None where the run does not train again."""
        return None if self.replayed is None else self.replayed[self.index.splits.where(TRAIN)]

    @property
    def words(self) -> str:
        """One line for the log."""
        sizes = ", ".join(f"{len(table):,} {name}" for name, table in self.splits.tables.items())
        return f"data: {self.splits.root}: {self.splits.num_classes} classes, images: {sizes}"


def read_samples(source: DataSource) -> SampleIndex:
    """List the samples of a data set, each with its group, as they are corrected.

    Raises:
        UserError: when there is nothing to read, a row is wrong, or data.group finds nothing.
    """
    index, corrected = read_corrected(source)
    return replace(index, samples=corrected.samples)


def read_corrected(source: DataSource) -> tuple[SampleIndex, Corrected]:
    """List the samples of a data set as they are there, and as they are corrected; see `read_samples`."""
    index = assign_groups(source.read(), source.group)
    corrected = apply_corrections(index.root, index.samples, given_corrections(source, index))
    corrected.report()
    return index, corrected


def given_corrections(source: DataSource, index: SampleIndex) -> tuple[LabelCorrection, ...]:
    """Read the corrections that a data set has."""
    root = getattr(source, "root", None)
    roots = [path_of(name) for name in (root if isinstance(root, list) else [root]) if name is not None]
    return find_corrections(source.corrections, roots, index.root)


def load_data(
    source: DataSource,
    *,
    seed: int,
    manifest: Iterable[Sample] | None = None,
    corrections: Sequence[LabelCorrection] | None = None,
    earlier: EarlierRun | None = None,
    first_classes: Sequence[str] = (),
    replayed: Collection[str] | None = None,
) -> LoadedData:
    """Read a data set, refuse or leave out what cannot be used, and split it.

    Args:
        source: the data.
        seed: of random splits.
        manifest: the splits of a run that resumes, which are used again.
        corrections: those of a run that resumes; those that the data has when left out.
        earlier: the run that is trained again, whose images keep their splits.
        first_classes: that keep their numbers, before all others.
        replayed: of a run that resumes, paths of the images that the run before was trained on.

    Raises:
        UserError: when there is no data, a file is no image (unless such are skipped), or there is no validation image.
    """
    request = split_request(source)
    index = assign_groups(source.read(), source.group)
    found = index.samples
    index = _set_unlabelled_apart(index)
    if corrections is None:
        corrections = given_corrections(source, index)
    corrected = apply_corrections(index.root, index.samples, corrections)
    corrected.report()
    base = None
    if manifest is None:
        _handle_empty_classes(index, source.on_error)
        if earlier is not None:
            base = earlier.find_base(source)
            index = keep_splits(index, earlier, base, takes_others=not earlier.has_new_roots(source))
    else:
        index = restore_splits(replace(index, samples=corrected.samples), manifest, source.on_error)
    folds = None
    scan = scan_headers(index)
    index = _handle_unreadable_images(index, scan, source.on_error, corrected)
    copies = scan.copies()
    if manifest is None:
        if source.splits is not None:
            index = give_splits(index, Path(source.splits), source.on_error, corrected.applied)
        # A random split must not put copies of an image on both sides.
        exact = {path: group[0] for group in copies for path in group}
        clusters = near_duplicates(index) if source.group_duplicates else exact
        is_open = request.all_folds or VAL not in index.present_splits()
        if clusters and (is_open or index.splits.where("").any()):
            index = group_duplicates(index, clusters)
        divided = complete_splits(index, request, seed=seed, adds=earlier is not None)
        # After a random split, so that corrections move no other image to another split.
        index = replace(divided, samples=corrected.again(divided.samples))
        if request.all_folds:
            index, folds = take_folds(index, divided)
    if index.unlabelled:
        log.info("test: %s without labels; train predicts them at its end", plural(len(index.unlabelled), "image"))
    report_overlap(index)
    report_straddling(index)
    splits = tabulate(index, first_classes)
    is_replayed = None
    if manifest is not None and replayed is not None:
        is_replayed = np.array([path in replayed for path in index.paths], dtype=bool)
    elif earlier is not None and base is not None:
        is_replayed = replayed_rows(index, earlier, base)
        refuse_nothing_new(index, is_replayed, earlier)
        refuse_alike(splits.class_names, earlier)
    if VAL not in splits.tables:
        raise _nothing_to_validate(index)
    sizes = scan.sizes
    statistics = dataset_statistics(splits, sizes) | ({"corrections": corrected.counts} if corrections else {})
    if index.files is not None:
        statistics["folder"] = index.files.without(_left_out(found, index, splits, scan.unreadable)).to_dict()
    return LoadedData(
        index=index,
        splits=splits,
        image_sizes=sizes.astype(np.int32),
        training_sizes=scan.sizes_of(index.paths[index.splits.where(TRAIN)]).astype(np.int32),
        statistics=statistics,
        copies=copies,
        depth=scan.depth,
        corrections=tuple(corrections),
        folds=folds,
        replayed=is_replayed,
    )


def _set_unlabelled_apart(index: SampleIndex) -> SampleIndex:
    """Take a test split of which no label is a class of train for one without labels."""
    is_test = index.splits.where(TEST)
    # Those without a split are divided, and most of them trained on.
    labels, trained = index.labels[is_test].counts(), index.labels[index.splits.where(TRAIN, "")].counts()
    if not labels or not labels.keys().isdisjoint(trained):
        return index
    if any(labels):
        log.warning(
            "test: no label is a class of train (%s); its %s are taken as images without labels",
            enumerate_words(sorted(map(repr, labels)), limit=6), plural(int(is_test.sum()), "image"),
        )  # fmt: skip
    test = index.paths[is_test]
    unlabelled = (*index.unlabelled, *test[test.numbers()[1]])
    return replace(index, samples=index.samples[~is_test], unlabelled=unlabelled)


def _left_out(
    found: Samples, index: SampleIndex, splits: SplitData, unreadable: Mapping[str, UnreadableImageError]
) -> dict[str, str]:
    """Why images that were found are not used, by relative path."""
    used = index.paths[index.labels.places_in(splits.class_names) >= 0]
    images, first = Texts.joined([found.paths, used]).numbers()
    is_used = np.zeros(len(first), bool)
    is_used[images[len(found) :]] = True
    paths = dict.fromkeys(found.paths[first[~is_used & (first < len(found))]], "unused")
    kinds = dict.fromkeys(index.unlabelled, "unlabelled") | dict.fromkeys(unreadable, "unreadable")
    return {path: kinds.get(path, kind) for path, kind in paths.items()}


def split_request(source: DataSource) -> SplitRequest:
    """Return the settings on how to split.

    Raises:
        UserError: when they contradict each other.
    """
    names = ("val_fraction", "test_fraction", "fold", "num_folds")
    chosen = {name: getattr(source, name) for name in names}
    unused = [name for name in names if chosen[name] is not None]
    if source.splits is not None and (unused or source.group_duplicates):
        name = unused[0] if unused else "group_duplicates"
        raise UserError(
            f"data.{name}={getattr(source, name)} has no effect: data.splits defines the splits",
            "splits that are read, or random splits",
            f"leave out data.{name}, or data.splits",
        )
    return SplitRequest(**chosen, all_folds=source.trains_all_folds)


def _nothing_to_validate(index: SampleIndex) -> UserError:
    unknown = sorted(index.labels[index.splits.where(VAL)].counts())
    if unknown:
        return UserError(
            f"{index.root}: the validation split has only classes that train does not have: "
            f"{enumerate_words(map(repr, unknown))}",
            "the same class names in train and in validation",
            "rename the classes, or remove the validation split to have one cut from train",
        )
    if not index.groups.where("").all():
        return UserError(
            f"{index.root}: no group is left for validation; every class is in a single one",
            "at least one class in two groups",
            "another data.group (data.group=parent is the class itself where images lie directly in class folders)",
        )
    return UserError(
        f"{index.root}: no image is left for validation; every class has a single one",
        "at least one class with two images",
        "add images, or make a val folder",
    )


def _handle_empty_classes(index: SampleIndex, on_error: Literal["raise", "skip"]) -> None:
    if not index.empty_classes:
        return
    listed = enumerate_words(index.empty_classes)
    if on_error == "raise":
        folder = index.root / index.empty_classes[0]
        missed = count_files(
            folder, lambda path: "read" if is_image(path) else kind_of(path), follow_links=False
        ).missed()
        came = f"{index.root}: {plural(len(index.empty_classes), 'class folder')} without an image: {listed}"
        raise UserError(
            f"{came}; not read in {folder.name}: {missed[0][0]}" if missed else came,
            "at least one image in every class folder",
            f"{missed[0][1] if missed else 'fill or remove the folders'}; or leave them out: data.on_error=skip",
        )
    log.warning("class folders without an image are left out: %s", listed)


def _handle_unreadable_images(
    index: SampleIndex, scan: HeaderScan, on_error: Literal["raise", "skip"], corrected: Corrected
) -> SampleIndex:
    """Those that corrections drop are left out without a word."""
    left = corrected.samples.paths
    kept = {*left[left.find(scan.unreadable)]}
    errors = [error for path, error in scan.unreadable.items() if path in kept]
    if errors and on_error == "raise":
        more = f" (and {len(errors) - 1} more like it)" if len(errors) > 1 else ""
        raise UserError(f"{errors[0].came}{more}", errors[0].expected, errors[0].remedy)
    for error in errors:
        log.warning("skipped %s: %s", error.path, error.reason)
    if errors:
        log.warning("%d of %d files cannot be read and are left out", len(errors), len(index.samples))
    return index.without(scan.unreadable)
