"""Which sample is trained on and which is held out: stratified and seeded, or read from a file; written down."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.files import escapes
from classifier_training.core.run_dir import write_csv
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.formats.listing import open_text
from classifier_training.data.index import SPLIT_FOLDERS, Sample, SampleIndex, split_of
from classifier_training.data.splitting.allocate import draw, draw_folds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Literal

    from classifier_training.data.index import SampleIndex

log = logging.getLogger(__name__)

DEFAULT_FRACTION = 0.15


@dataclass(frozen=True, kw_only=True)
class SplitWish:
    """How the user wants samples divided; see the settings of `DataSource`."""

    val_fraction: float | None = None
    test_fraction: float | None = None
    fold: int | None = None
    num_folds: int | None = None

    def __post_init__(self) -> None:
        """Refuse half a wish for cross-validation.

        Raises:
            UserError: when fold and num_folds do not go together, or val_fraction is given besides.
        """
        if (self.fold is None) != (self.num_folds is None):
            one, other = ("fold", "num_folds") if self.num_folds is None else ("num_folds", "fold")
            raise UserError(f"data.{one} without data.{other}", "both or neither", "data.fold=0 data.num_folds=5")
        if self.fold is not None and self.num_folds is not None:
            if self.fold >= self.num_folds:
                raise UserError(
                    f"data.fold={self.fold} data.num_folds={self.num_folds}",
                    f"a fold from 0 to {self.num_folds - 1}",
                    f"data.fold={self.num_folds - 1}",
                )
            if self.val_fraction is not None:
                raise UserError(
                    f"data.val_fraction={self.val_fraction} has no effect: the fold is validated on",
                    "a fraction or a fold",
                    "leave one of them out",
                )


def complete_splits(index: SampleIndex, wish: SplitWish, *, seed: int) -> SampleIndex:
    """Give every sample a split.

    Unsplit data is divided in three. Data that comes split keeps its splits; a missing validation split is cut from
    the training split, a missing test split is not, for then the data's own division would be no more. Samples without
    a split beside others that have one are divided among the splits that the others have.

    Raises:
        UserError: when a fraction or fold is given that has nothing to divide, or leaves nothing to train on.
    """
    present = index.present_splits()
    if not present:
        return _divide(index, wish, seed=seed)
    num_open = sum(not sample.split for sample in index.samples)
    if not num_open:
        _refuse_idle("test_fraction", wish.test_fraction, TEST, present)
    if VAL in present:
        if not num_open:
            _refuse_idle("val_fraction", wish.val_fraction, VAL, present)
        _refuse_idle("fold", wish.fold, VAL, present)
    if num_open:
        index = _divide_rest(index, wish, present, seed=seed)
    if VAL in present:
        return index
    drawn = _cut_validation(index, wish, seed=seed)
    if wish.fold is None:
        share = DEFAULT_FRACTION if wish.val_fraction is None else wish.val_fraction
        log.info("There is no validation split: %.0f %% of train was set aside for it.", 100 * share)
    return drawn


def _divide(index: SampleIndex, wish: SplitWish, *, seed: int) -> SampleIndex:
    test = DEFAULT_FRACTION if wish.test_fraction is None else wish.test_fraction
    if wish.fold is not None:
        # The test split is drawn first and alone, and so is the same for every fold.
        return _cut_validation(index.with_splits(draw(index.samples, {TEST: test}, seed=seed)), wish, seed=seed)
    fractions = {VAL: DEFAULT_FRACTION if wish.val_fraction is None else wish.val_fraction, TEST: test}
    if sum(fractions.values()) >= 1:
        raise UserError(
            f"data.val_fraction={fractions[VAL]} and data.test_fraction={fractions[TEST]} leave no training data",
            "two fractions that sum to less than 1",
            "data.val_fraction=0.15 data.test_fraction=0.15",
        )
    return index.with_splits(draw(index.samples, fractions, seed=seed))


def _divide_rest(index: SampleIndex, wish: SplitWish, present: set[str], *, seed: int) -> SampleIndex:
    """Divide the samples without a split by the usual shares; one whose group has a split takes that."""
    chosen = {VAL: wish.val_fraction, TEST: wish.test_fraction}
    wanted = {VAL: VAL in present, TEST: TEST in present or wish.test_fraction is not None}
    fractions = {split: chosen[split] or DEFAULT_FRACTION for split in chosen if wanted[split]}
    given: dict[str, str] = {}
    for sample in index.samples:
        if sample.split and sample.group:
            given.setdefault(sample.group, sample.split)
    splits = [sample.split or given.get(sample.group, "") for sample in index.samples]
    rows = [row for row, split in enumerate(splits) if not split]
    drawn, words = [TRAIN] * len(rows), "they are trained on"
    rest = [index.samples[row] for row in rows]
    if TRAIN in present and fractions and len({sample.group or sample.path for sample in rest}) > 1:
        drawn = draw(rest, fractions, seed=seed)
        words = "they are divided among " + ", ".join((TRAIN, *fractions))
    for row, split in zip(rows, drawn, strict=True):
        splits[row] = split
    number = sum(not sample.split for sample in index.samples)
    log.warning("%s: %d images come without a split beside others that have one; %s", index.root, number, words)
    return index.with_splits(splits)


def _cut_validation(index: SampleIndex, wish: SplitWish, *, seed: int) -> SampleIndex:
    rows = [row for row, sample in enumerate(index.samples) if sample.split == TRAIN]
    samples = [index.samples[row] for row in rows]
    if wish.fold is not None and wish.num_folds is not None:
        folds = draw_folds(samples, wish.num_folds, seed=seed)
        drawn = [VAL if fold == wish.fold else TRAIN for fold in folds]
    else:
        drawn = draw(samples, {VAL: wish.val_fraction or DEFAULT_FRACTION}, seed=seed)
    splits = [sample.split for sample in index.samples]
    for row, split in zip(rows, drawn, strict=True):
        splits[row] = split
    return index.with_splits(splits)


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


def write_manifest(path: Path, index: SampleIndex) -> None:
    """Write splits.csv: path (relative to the data root), label, split and group of every sample."""
    rows = ((sample.path, sample.label, sample.split, sample.group) for sample in index.samples)
    write_csv(path, ("path", "label", "split", "group"), rows)


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
    """Give the samples the splits of an earlier run, in its order; what came since is left out.

    Args:
        index: the data as it is now.
        manifest: what the run wrote down.
        on_error: whether samples that are gone end the run or are left out.

    Raises:
        UserError: when samples are gone, or with them a class.
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
        log.info("%d samples came after the run began; they are left out.", new)
    lost = sorted(
        {sample.label for sample in manifest if sample.split == TRAIN} - {s.label for s in kept if s.split == TRAIN}
    )
    if lost or (gone and on_error == "raise"):
        raise UserError(
            f"{index.root}: {len(gone)} samples of the run are gone: {enumerate_words(gone, limit=3)}",
            "the data that the run was begun with",
            f"train anew: no image of {enumerate_words(map(repr, lost))} is left"
            if lost
            else "bring them back, name the folder they were moved to: data.root=…, or go on: data.on_error=skip",
        )
    if gone:
        log.warning("%d samples of the run are gone and are left out: %s", len(gone), enumerate_words(gone, limit=3))
    return replace(index, samples=kept)


def _refuse_idle(option: str, value: float | None, split: str, present: set[str]) -> None:
    if value is None:
        return
    folder = next(name for name, meaning in SPLIT_FOLDERS.items() if meaning == split)
    if split in present:
        came, remedy = (
            f"the data already has a {split} split",
            f"leave it out, or move the {folder} folder away",
        )
    else:
        came, remedy = "the data comes split, without a test", f"leave it out, or make a {folder} folder"
    raise UserError(
        f"data.{option}={value} has no effect: {came}", "a fraction or fold only for data that is not split", remedy
    )


@dataclass(frozen=True)
class Given:
    """What a file says of one path."""

    label: str | None
    split: str
    group: str


def give_splits(index: SampleIndex, file: Path, on_error: Literal["raise", "skip"]) -> SampleIndex:
    """Give the samples the splits of a file, as a run writes it; labels stay those of the data.

    Args:
        index: the data; splits of its own do not count.
        file: a CSV file with the columns path (relative to the data folder) and split, perhaps label and group.
        on_error: whether images that the file names and the data lacks end the run or are left out.

    Raises:
        UserError: when the file cannot be read, or images are gone.
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
            else "bring them back, or go on without them: data.on_error=skip",
        )
    samples = tuple(_assign(sample, given[sample.path]) for sample in index.samples if sample.path in given)
    others = len(index.samples) - len(samples)
    relabelled = sum(all(row.label not in (None, sample.label) for row in given[sample.path]) for sample in samples)
    for number, words in (
        (len(gone), "images that it names are gone and are left out"),
        (others, "images are not in it and are left out"),
        (relabelled, "images have another label than in it; the data's own holds"),
    ):
        if number:
            log.warning("data.splits=%s: %d %s", file, number, words)
    if TRAIN not in {sample.split for sample in samples}:
        raise UserError(f"data.splits={file} has no training images", "rows with the split train", "another file")
    return replace(index, samples=samples)


def _assign(sample: Sample, rows: list[Given]) -> Sample:
    row = next((row for row in rows if row.label == sample.label), rows[0])
    return replace(sample, split=row.split, group=sample.group or row.group)


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
                "mend the line",
            )
        yield row["path"], Given(row.get("label"), split, row.get("group") or "")
