"""Splits: which samples are trained on and which are held out; stratified random, or read from a file."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.columns import Categories, Texts, different, number_by_first
from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.index import SPLIT_FOLDERS, SampleIndex
from classifier_training.data.samples import Samples
from classifier_training.data.splitting.allocate import random_folds, random_split
from classifier_training.data.splitting.manifest import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from classifier_training.data.corrections import LabelCorrection
    from classifier_training.data.index import SampleIndex
    from classifier_training.data.samples import Sample

log = logging.getLogger(__name__)

DEFAULT_FRACTION = 0.15

FOLD = "fold "
"""How the split of a sample begins while its fold is not yet chosen for validation or training."""


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """The settings of `DataSource` on how samples are split."""

    val_fraction: float | None = None
    test_fraction: float | None = None
    fold: int | None = None
    num_folds: int | None = None
    all_folds: bool = False
    """Whether all folds are asked for: the split of each training sample is then the name of its fold."""

    def __post_init__(self) -> None:
        """Refuse an incomplete request for cross-validation.

        Raises:
            UserError: when only one of fold and num_folds is given, fold is too large, or val_fraction is given, too.
        """
        if (self.fold is None) != (self.num_folds is None or self.all_folds):
            one, other = ("fold", "num_folds") if self.num_folds is None else ("num_folds", "fold")
            raise UserError(f"data.{one} without data.{other}", "both or neither", "data.fold=0 data.num_folds=5")
        if self.num_folds is not None:
            if self.fold is not None and self.fold >= self.num_folds:
                raise UserError(
                    f"data.fold={self.fold} data.num_folds={self.num_folds}",
                    f"a fold from 0 to {self.num_folds - 1}",
                    f"data.fold={self.num_folds - 1}",
                )
            if self.val_fraction is not None:
                raise UserError(
                    f"data.val_fraction={self.val_fraction} has no effect: the fold is the validation split",
                    "a fraction or a fold",
                    "leave one of them out",
                )


def complete_splits(index: SampleIndex, request: SplitRequest, *, seed: int, adds: bool = False) -> SampleIndex:
    """Give every sample a split.

    Unsplit data is split into train, val and test. Data that comes with splits keeps them; a missing validation split
    is taken from the training split, but a missing test split is not made. Samples without a split, beside others that
    have one, are divided among the splits of the others.

    Args:
        index: the samples.
        request: how to split.
        seed: of random splits.
        adds: whether samples without a split beside others are new ones, which are expected.

    Raises:
        UserError: when a fraction or fold has no effect, or leaves no training data.
    """
    if request.all_folds and VAL in index.present_splits():
        number = index.splits.counts()[VAL]
        log.info("The %s of the validation split are trained on: the folds take its place.", plural(number, "image"))
        index = index.with_splits(index.splits.mapped(lambda split: TRAIN if split == VAL else split))
    present = index.present_splits()
    if not present:
        return _divide(index, request, seed=seed)
    num_open = index.splits.counts().get("", 0)
    # Data that comes without a test split has what data.test_fraction=0 asks for.
    if not num_open and (request.test_fraction or TEST in present):
        _refuse_unused("test_fraction", request.test_fraction, TEST, present)
    if VAL in present:
        if not num_open:
            _refuse_unused("val_fraction", request.val_fraction, VAL, present)
        _refuse_unused("fold", request.fold, VAL, present)
    if num_open:
        index = _divide_rest(index, request, present, seed=seed, adds=adds)
    if VAL in present:
        return index
    index = _cut_validation(index, request, seed=seed)
    if request.num_folds is None:
        share = DEFAULT_FRACTION if request.val_fraction is None else request.val_fraction
        log.info("There is no validation split: %.0f %% of train was set aside for it.", 100 * share)
    return index


def _divide(index: SampleIndex, request: SplitRequest, *, seed: int) -> SampleIndex:
    test = DEFAULT_FRACTION if request.test_fraction is None else request.test_fraction
    if request.num_folds is not None:
        # The test split is chosen first, so it is the same for every fold.
        fractions = {TEST: test} if test else {}
        return _cut_validation(index.with_splits(random_split(index.samples, fractions, seed=seed)), request, seed=seed)
    fractions = {VAL: DEFAULT_FRACTION if request.val_fraction is None else request.val_fraction, TEST: test}
    if sum(fractions.values()) >= 1:
        raise UserError(
            f"data.val_fraction={fractions[VAL]} and data.test_fraction={fractions[TEST]} leave no training data",
            "two fractions that sum to less than 1",
            "data.val_fraction=0.15 data.test_fraction=0.15",
        )
    fractions = {split: share for split, share in fractions.items() if share}
    return index.with_splits(random_split(index.samples, fractions, seed=seed))


def _divide_rest(index: SampleIndex, request: SplitRequest, present: set[str], *, seed: int, adds: bool) -> SampleIndex:
    """Divide the samples without a split by the usual fractions; a sample whose group has a split takes that."""
    chosen = {VAL: request.val_fraction, TEST: request.test_fraction}
    wanted = {VAL: VAL in present, TEST: TEST in present or request.test_fraction is not None}
    shares = {split: DEFAULT_FRACTION if share is None else share for split, share in chosen.items() if wanted[split]}
    fractions = {split: share for split, share in shares.items() if share}
    groups, given = index.groups.codes, np.zeros(len(index.groups.values), dtype=np.int64)
    splits, is_open = index.splits, index.splits.where("")
    has_group = ~index.groups.where("")
    # The first sample of a group that has a split gives its own to the others.
    rows = np.flatnonzero(has_group & ~is_open)[::-1]
    given[groups[rows]] = rows + 1
    rows = np.flatnonzero(has_group & is_open & (given[groups] > 0))
    splits = splits.replaced(rows, splits[given[groups[rows]] - 1])
    rows = np.flatnonzero(splits.where(""))
    assigned, words = Categories.same(TRAIN, len(rows)), "they are used for training"
    rest = index.samples[rows]
    if TRAIN in present and fractions and _num_units(rest) > 1:
        assigned = random_split(rest, fractions, seed=seed)
        words = "they are divided among " + ", ".join((TRAIN, *fractions))
    if adds:
        log.info("replay: %s new; %s", plural(int(is_open.sum()), "image is", "images are"), words)
    else:
        log.warning(
            "%s: %d images come without a split beside others that have one; %s", index.root, is_open.sum(), words
        )
    return index.with_splits(splits.replaced(rows, assigned))


def _num_units(samples: Samples) -> int:
    """How many groups there are, and images without one."""
    alone = samples.paths[samples.groups.where("")]
    return sum(group != "" for group in samples.groups.counts()) + len(alone.numbers()[1])


def _cut_validation(index: SampleIndex, request: SplitRequest, *, seed: int) -> SampleIndex:
    rows = np.flatnonzero(index.splits.where(TRAIN))
    samples = index.samples[rows]
    if request.num_folds is not None:
        folds = random_folds(samples, request.num_folds, seed=seed)
        if request.all_folds:
            assigned = Categories(folds + 1, (TRAIN, *(f"{FOLD}{fold}" for fold in range(request.num_folds))))
        else:
            assigned = Categories((folds == request.fold).astype(np.int8), (TRAIN, VAL))
    else:
        assigned = random_split(samples, {VAL: request.val_fraction or DEFAULT_FRACTION}, seed=seed)
    return index.with_splits(index.splits.replaced(rows, assigned))


def take_folds(index: SampleIndex, divided: SampleIndex) -> tuple[SampleIndex, NDArray[np.int64]]:
    """Give samples that were divided into folds the splits of the first fold.

    Args:
        index: the samples, some of which corrections may have moved or left out since.
        divided: the samples as `complete_splits` divided them.

    Returns:
        The samples, and the fold of each, int64 [N]: -1 for those of the test split and those that all folds train on.
    """
    fold_of = [int(split.removeprefix(FOLD)) if split.startswith(FOLD) else -1 for split in divided.splits.values]
    both = Texts.joined([divided.paths, index.paths]).numbers()[0]
    by_image = np.full(int(both.max(initial=-1)) + 1, -1, dtype=np.int64)
    by_image[both[: len(divided)]] = np.array([*fold_of, -1])[divided.splits.codes]
    # What corrections move to validation is in its fold as any other image of the training split.
    in_folds = index.splits.where(VAL, *(split for split in index.splits.values if split.startswith(FOLD)))
    folds = np.where(in_folds, by_image[both[len(divided) :]], -1)
    # A class that corrections left in one fold alone is trained on in all, so that all know the same classes.
    is_test = index.splits.where(TEST)
    labels = index.labels.codes.astype(np.int64)
    stride = int(folds.max(initial=-1)) + 2
    pairs = different(labels[~is_test] * stride + folds[~is_test] + 1)
    is_alone = np.bincount(pairs // stride, minlength=len(index.labels.values)) == 1
    folds[is_alone[labels]] = -1
    index = index.with_splits(index.splits.mapped(lambda split: TEST if split == TEST else TRAIN))
    return in_fold(index, folds, 0), folds


def in_fold(index: SampleIndex, folds: Sequence[int] | NDArray[np.int64], number: int) -> SampleIndex:
    """Return the samples with the splits of one fold: its own images are the validation split, the others train.

    Args:
        index: the samples; those that are in a fold have any split.
        folds: of each sample; -1 leaves its split as it is.
        number: of the fold.
    """
    numbers = np.asarray(folds)
    rows = np.flatnonzero(numbers >= 0)
    own = Categories((numbers[rows] == number).astype(np.int8), (TRAIN, VAL))
    return index.with_splits(index.splits.replaced(rows, own))


def report_overlap(index: SampleIndex) -> None:
    """Warn when an image is in more than one split."""
    if index.paths.is_distinct():
        return
    images, first = index.paths.numbers()
    stride = len(index.splits.values)
    pairs = different(images * stride + index.splits.codes)
    shared = index.paths[first[np.bincount(pairs // stride) > 1]]
    if len(shared):
        log.warning(
            "%d images are in more than one split, so the scores will be too good: %s",
            len(shared), enumerate_words(shared[:3], limit=3),
        )  # fmt: skip


def restore_splits(index: SampleIndex, manifest: Iterable[Sample], on_error: Literal["raise", "skip"]) -> SampleIndex:
    """Give the samples the splits of an earlier run, in its order; newer samples are left out.

    Args:
        index: the data as it is now.
        manifest: the splits that the run wrote.
        on_error: whether missing samples raise an error or are left out.

    Raises:
        UserError: when samples are missing, or all training samples of a class.
    """
    given = Samples.of(manifest)
    images, _ = Texts.joined([given.paths, index.paths]).numbers()
    labels = Categories.joined([given.labels, index.labels])
    pairs, _ = number_by_first(images * len(labels.values) + labels.codes)
    before, now = pairs[: len(given)], pairs[len(given) :]
    number = int(pairs.max(initial=-1)) + 1
    known, present = np.bincount(before, minlength=number), np.bincount(now, minlength=number)
    row_of = np.full(number, -1, dtype=np.int64)
    row_of[now] = np.arange(len(now))
    is_kept = present[before] > 0
    kept = replace(given[is_kept], metadata=index.samples[row_of[before[is_kept]]].metadata)
    first = np.full(number, -1, dtype=np.int64)
    first[before[::-1]] = np.arange(len(before))[::-1]
    gone = sorted(given.paths[first[known > present]])
    new = int(np.maximum(present - known, 0).sum())
    if new:
        log.info("%s added after the run began; left out", plural(new, "sample"))
    trained, left = (rows.labels[rows.splits.where(TRAIN)].counts() for rows in (given, kept))
    lost = sorted(trained.keys() - left.keys())
    if lost or (gone and on_error == "raise"):
        raise UserError(
            f"{index.root}: {plural(len(gone), 'sample')} of the run missing: {enumerate_words(gone, limit=3)}",
            "the data that the run started with",
            f"start a new run: no image of {enumerate_words(map(repr, lost))} is left"
            if lost
            else "restore them, name the folder they were moved to: data.root=…, or leave them out: data.on_error=skip",
        )
    if gone:
        log.warning(
            "%s of the run missing and left out: %s", plural(len(gone), "sample"), enumerate_words(gone, limit=3)
        )
    return replace(index, samples=kept)


def _refuse_unused(option: str, value: float | None, split: str, present: set[str]) -> None:
    if value is None:
        return
    folder = next(name for name, meaning in SPLIT_FOLDERS.items() if meaning == split)
    if split in present:
        came, remedy = (
            f"the data already has a {split} split",
            f"leave it out, or move the {folder} folder away",
        )
    else:
        came, remedy = "the data comes with splits, without a test split", f"leave it out, or make a {folder} folder"
    raise UserError(
        f"data.{option}={value} has no effect: {came}", "a fraction or fold only for data without splits", remedy
    )


def give_splits(
    index: SampleIndex,
    file: Path,
    on_error: Literal["raise", "skip"],
    corrections: Mapping[tuple[str, str], LabelCorrection] = MappingProxyType({}),
) -> SampleIndex:
    """Give the samples the splits of a file such as a run's splits.csv; labels stay those of the data.

    Args:
        index: the data; its own splits are ignored.
        file: a CSV file with the columns path (relative to the data folder) and split, perhaps label and group.
        on_error: whether images of the file that the data lacks raise an error or are left out.
        corrections: that are applied afterwards, by path and label; what they change is no difference.

    Raises:
        UserError: when the file cannot be read, or images are missing.
    """
    given, has_label = read_rows(file)
    start = len(given)
    images, first = Texts.joined([given.paths, index.paths]).numbers()
    own, in_file = images[start:], np.flatnonzero(first < start)
    gone = given.paths[first[np.setdiff1d(in_file, own)]]
    if len(gone) and (on_error == "raise" or len(gone) == len(in_file)):
        raise UserError(
            f"data.splits={file}: {len(gone)} of its {len(in_file)} images are not in {index.root}: "
            f"{enumerate_words(gone, limit=3)}",
            "paths relative to the data folder, as in the splits.csv of a run on the same data",
            "data.root=… of that data"
            if len(gone) == len(in_file)
            else "restore them, or leave them out: data.on_error=skip",
        )
    corrected, is_dropped = _corrected_labels(index, corrections)
    labels = Categories.joined([given.labels, index.labels, corrected])
    codes = labels.codes.astype(np.int64)
    codes[:start][~has_label] = len(labels.values)
    pairs, first_pair = number_by_first(np.concatenate([images, own]) * (len(labels.values) + 1) + codes)
    same, same_corrected = np.split(first_pair[pairs[start:]], 2)
    # Of the rows on an image, the one with the sample's label counts, else the first.
    rows, is_given = np.where(same < start, same, first[own]), first[own] < start
    kept = index.samples[is_given].with_columns(splits=given.splits[rows[is_given]])
    alone = kept.groups.where("")
    samples = kept.with_columns(groups=kept.groups.replaced(alone, given.groups[rows[is_given][alone]]))
    is_open = np.zeros(len(first), bool)
    is_open[images[:start][~has_label]] = True
    others = int((~is_given & ~is_dropped).sum())
    relabelled = int((is_given & ~is_open[own] & (same >= start) & (same_corrected >= start)).sum())
    edited = f"{command('analyze')} {setting('data.root', index.root)} {setting('data.splits', file)}"
    for number, words in (
        (len(gone), "of its images are missing and are left out"),
        (others, "images are not in it and are left out"),
        (
            relabelled,
            f"images have another label in the data; that is used. {edited} writes the file's labels as corrections",
        ),
    ):
        if number:
            log.warning("data.splits=%s: %d %s", file, number, words)
    if TRAIN not in samples.splits.counts():
        raise UserError(f"data.splits={file} has no training images", "rows with the split train", "another file")
    return replace(index, samples=Samples.of(samples))


def _corrected_labels(
    index: SampleIndex, corrections: Mapping[tuple[str, str], LabelCorrection]
) -> tuple[Categories[str], NDArray[np.bool_]]:
    """The labels after corrections [N], and which samples they drop [N]."""
    changes: dict[int, str] = {}
    is_dropped = np.zeros(len(index), bool)
    for row in index.paths.find({path for path, _ in corrections}).tolist():
        line = corrections.get((index.paths[row], index.labels[row]))
        if line is not None and line.action == "relabel":
            changes[row] = line.new
        is_dropped[row] = line is not None and line.action == "drop"
    return index.labels.replaced(np.array([*changes], dtype=np.int64), changes.values()), is_dropped
