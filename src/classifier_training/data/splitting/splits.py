"""Splits: which samples are trained on and which are held out; stratified random, or read from a file."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.files import escapes
from classifier_training.core.run_dir import write_csv
from classifier_training.core.runtime import command, setting
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.formats.listing import open_text
from classifier_training.data.index import SPLIT_FOLDERS, SampleIndex, split_of
from classifier_training.data.samples import Sample, Samples
from classifier_training.data.splitting.allocate import random_folds, random_split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Literal

    from classifier_training.data.corrections import LabelCorrection
    from classifier_training.data.index import SampleIndex

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


def complete_splits(index: SampleIndex, request: SplitRequest, *, seed: int) -> SampleIndex:
    """Give every sample a split.

    Unsplit data is split into train, val and test. Data that comes with splits keeps them; a missing validation split
    is taken from the training split, but a missing test split is not made. Samples without a split, beside others that
    have one, are divided among the splits of the others.

    Raises:
        UserError: when a fraction or fold has no effect, or leaves no training data.
    """
    if request.all_folds and VAL in index.present_splits():
        number = sum(sample.split == VAL for sample in index.samples)
        log.info("The %s of the validation split are trained on: the folds take its place.", plural(number, "image"))
        index = index.with_splits(TRAIN if sample.split == VAL else sample.split for sample in index.samples)
    present = index.present_splits()
    if not present:
        return _divide(index, request, seed=seed)
    num_open = sum(not sample.split for sample in index.samples)
    # Data that comes without a test split has what data.test_fraction=0 asks for.
    if not num_open and (request.test_fraction or TEST in present):
        _refuse_unused("test_fraction", request.test_fraction, TEST, present)
    if VAL in present:
        if not num_open:
            _refuse_unused("val_fraction", request.val_fraction, VAL, present)
        _refuse_unused("fold", request.fold, VAL, present)
    if num_open:
        index = _divide_rest(index, request, present, seed=seed)
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


def _divide_rest(index: SampleIndex, request: SplitRequest, present: set[str], *, seed: int) -> SampleIndex:
    """Divide the samples without a split by the usual fractions; a sample whose group has a split takes that."""
    chosen = {VAL: request.val_fraction, TEST: request.test_fraction}
    wanted = {VAL: VAL in present, TEST: TEST in present or request.test_fraction is not None}
    shares = {split: DEFAULT_FRACTION if share is None else share for split, share in chosen.items() if wanted[split]}
    fractions = {split: share for split, share in shares.items() if share}
    given: dict[str, str] = {}
    for sample in index.samples:
        if sample.split and sample.group:
            given.setdefault(sample.group, sample.split)
    splits = [sample.split or given.get(sample.group, "") for sample in index.samples]
    rows = [row for row, split in enumerate(splits) if not split]
    assigned, words = [TRAIN] * len(rows), "they are used for training"
    rest = [index.samples[row] for row in rows]
    if TRAIN in present and fractions and len({sample.group or sample.path for sample in rest}) > 1:
        assigned = random_split(rest, fractions, seed=seed)
        words = "they are divided among " + ", ".join((TRAIN, *fractions))
    for row, split in zip(rows, assigned, strict=True):
        splits[row] = split
    number = sum(not sample.split for sample in index.samples)
    log.warning("%s: %d images come without a split beside others that have one; %s", index.root, number, words)
    return index.with_splits(splits)


def _cut_validation(index: SampleIndex, request: SplitRequest, *, seed: int) -> SampleIndex:
    rows = [row for row, sample in enumerate(index.samples) if sample.split == TRAIN]
    samples = [index.samples[row] for row in rows]
    if request.num_folds is not None:
        folds = random_folds(samples, request.num_folds, seed=seed)
        if request.all_folds:
            assigned = [TRAIN if fold < 0 else f"{FOLD}{fold}" for fold in folds]
        else:
            assigned = [VAL if fold == request.fold else TRAIN for fold in folds]
    else:
        assigned = random_split(samples, {VAL: request.val_fraction or DEFAULT_FRACTION}, seed=seed)
    splits = [sample.split for sample in index.samples]
    for row, split in zip(rows, assigned, strict=True):
        splits[row] = split
    return index.with_splits(splits)


def take_folds(index: SampleIndex, divided: SampleIndex) -> tuple[SampleIndex, tuple[int, ...]]:
    """Give samples that were divided into folds the splits of the first fold.

    Args:
        index: the samples, some of which corrections may have moved or left out since.
        divided: the samples as `complete_splits` divided them.

    Returns:
        The samples, and the fold of each: -1 for those of the test split and those that every fold trains on.
    """
    found = {sample.path: sample.split for sample in divided.samples}
    numbers = {path: int(split.removeprefix(FOLD)) for path, split in found.items() if split.startswith(FOLD)}
    # What corrections move to validation is in its fold as any other image of the training split.
    folds = [
        numbers.get(sample.path, -1) if sample.split == VAL or sample.split.startswith(FOLD) else -1
        for sample in index.samples
    ]
    held_by: dict[str, set[int]] = {}
    for sample, fold in zip(index.samples, folds, strict=True):
        if sample.split != TEST:
            held_by.setdefault(sample.label, set()).add(fold)
    # A class that corrections left in one fold alone is trained on in all, so that all know the same classes.
    folds = [
        -1 if len(held_by.get(sample.label, ())) == 1 else fold
        for sample, fold in zip(index.samples, folds, strict=True)
    ]
    index = index.with_splits(TEST if sample.split == TEST else TRAIN for sample in index.samples)
    return in_fold(index, folds, 0), tuple(folds)


def in_fold(index: SampleIndex, folds: Sequence[int], number: int) -> SampleIndex:
    """Return the samples with the splits of one fold: its own images are the validation split, the others train.

    Args:
        index: the samples; those that are in a fold have any split.
        folds: of each sample; -1 leaves its split as it is.
        number: of the fold.
    """
    return index.with_splits(
        sample.split if fold < 0 else VAL if fold == number else TRAIN
        for sample, fold in zip(index.samples, folds, strict=True)
    )


def report_overlap(index: SampleIndex) -> None:
    """Warn when an image is in more than one split."""
    splits: dict[str, set[str]] = {}
    for sample in index.samples:
        splits.setdefault(sample.path, set()).add(sample.split)
    shared = [path for path, found in splits.items() if len(found) > 1]
    if shared:
        log.warning(
            "%d images are in more than one split, so the scores will be too good: %s",
            len(shared), enumerate_words(shared, limit=3),
        )  # fmt: skip


def write_manifest(path: Path, index: SampleIndex, folds: Sequence[int] | None = None) -> None:
    """Write splits.csv: path (relative to the data root), label, split and group of every sample.

    Args:
        path: of the file.
        index: the samples.
        folds: of a cross-validation, the fold of each sample, as a fifth column; -1, which is written as an empty cell,
            for a sample of none.
    """
    rows: Iterator[tuple[object, ...]] = (
        (sample.path, sample.label, sample.split, sample.group) for sample in index.samples
    )
    if folds is None:
        write_csv(path, ("path", "label", "split", "group"), rows)
        return
    fifth = ("" if fold < 0 else fold for fold in folds)
    write_csv(
        path, ("path", "label", "split", "group", "fold"), ((*row, fold) for row, fold in zip(rows, fifth, strict=True))
    )


def read_folds(path: Path) -> list[int]:
    """Read the folds that `write_manifest` wrote beside the samples; -1 for a sample of none.

    Raises:
        UserError: when the file is missing or has none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [int(row["fold"] or -1) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: no folds ({type(error).__name__}: {error})",
            "the splits.csv of a cross-validation, with a column fold",
            "restore it from a copy of the run folder",
        ) from error


def read_manifest(path: Path) -> list[Sample]:
    """Read what `write_manifest` wrote.

    Raises:
        UserError: when the file is missing, its columns are wrong, or a path leads out of the data folder.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [Sample(row["path"], row["label"], row["split"], row["group"]) for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise UserError(
            f"{path}: no split manifest ({type(error).__name__}: {error})",
            "a CSV file with the columns path, label, split, group",
            "restore it from a copy of the run folder, or name other data: data.root=…",
        ) from error
    escaping = next((row.path for row in rows if escapes(row.path or "")), None)
    if escaping is not None:
        raise UserError(
            f"{path}: the path {escaping!r} leads out of the data folder",
            "paths relative to data.root, as the run wrote them",
            "restore the file from a copy of the run folder that you trust",
        )
    return rows


def restore_splits(index: SampleIndex, manifest: Sequence[Sample], on_error: Literal["raise", "skip"]) -> SampleIndex:
    """Give the samples the splits of an earlier run, in its order; newer samples are left out.

    Args:
        index: the data as it is now.
        manifest: the splits that the run wrote.
        on_error: whether missing samples raise an error or are left out.

    Raises:
        UserError: when samples are missing, or all training samples of a class.
    """
    present = Counter((sample.path, sample.label) for sample in index.samples)
    known = Counter((sample.path, sample.label) for sample in manifest)
    metadata = {(sample.path, sample.label): sample.metadata for sample in index.samples}
    kept = tuple(
        replace(sample, metadata=metadata[sample.path, sample.label])
        for sample in manifest
        if (sample.path, sample.label) in present
    )
    gone = sorted(path for path, _ in known - present)
    new = sum((present - known).values())
    if new:
        log.info("%s added after the run began; left out", plural(new, "sample"))
    lost = sorted(
        {sample.label for sample in manifest if sample.split == TRAIN} - {s.label for s in kept if s.split == TRAIN}
    )
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
    return replace(index, samples=Samples.of(kept))


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


@dataclass(frozen=True)
class Given:
    """What a splits.csv says of one path."""

    label: str | None
    split: str
    group: str


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
    given: dict[str, list[Given]] = {}
    for path, row in _read(file):
        given.setdefault(path, []).append(row)
    present = {sample.path for sample in index.samples}
    gone = [path for path in given if path not in present]
    if gone and (on_error == "raise" or len(gone) == len(given)):
        raise UserError(
            f"data.splits={file}: {len(gone)} of its {len(given)} images are not in {index.root}: "
            f"{enumerate_words(gone, limit=3)}",
            "paths relative to the data folder, as in the splits.csv of a run on the same data",
            "data.root=… of that data"
            if len(gone) == len(given)
            else "restore them, or leave them out: data.on_error=skip",
        )
    samples = tuple(_assign(sample, given[sample.path]) for sample in index.samples if sample.path in given)
    changed = {sample: line.new for sample, line in corrections.items() if line.action == "relabel"}
    dropped = {sample for sample, line in corrections.items() if line.action == "drop"}
    others = sum(sample.path not in given and (sample.path, sample.label) not in dropped for sample in index.samples)
    relabelled = sum(
        all(
            row.label not in (None, sample.label, changed.get((sample.path, sample.label), sample.label))
            for row in given[sample.path]
        )
        for sample in samples
    )
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
    if TRAIN not in {sample.split for sample in samples}:
        raise UserError(f"data.splits={file} has no training images", "rows with the split train", "another file")
    return replace(index, samples=Samples.of(samples))


def _assign(sample: Sample, rows: list[Given]) -> Sample:
    row = next((row for row in rows if row.label == sample.label), rows[0])
    return replace(sample, split=row.split, group=sample.group or row.group)


def read_labels(file: Path) -> list[tuple[str, str]]:
    """Read the path and label of each row of a splits.csv; rows without a label are left out.

    Raises:
        UserError: when the file cannot be read.
    """
    return [(path, row.label) for path, row in _read(file) if row.label is not None]


def _read(file: Path) -> Iterator[tuple[str, Given]]:
    if not file.is_file():
        raise UserError(f"data.splits={file}: no such file", "the splits.csv of a run", "check the spelling")
    reader = csv.DictReader(open_text(file))
    if not {"path", "split"} <= set(reader.fieldnames or ()):
        raise UserError(
            f"{file}: no columns path and split, but {', '.join(reader.fieldnames or ()) or 'nothing'}",
            "a CSV file with the columns path, label, split, group",
            "the splits.csv of a run: data.splits=outputs/…/splits.csv",
        )
    for row in reader:
        split = split_of(row["split"] or "")
        if not row["path"] or not split:
            raise UserError(
                f"{file}:{reader.line_num}: path {row['path']!r}, split {row['split']!r}",
                "a path and train, val or test",
                "correct the line",
            )
        yield row["path"], Given(row.get("label"), split, row.get("group") or "")
