"""Which sample is trained on and which is held out: stratified, seeded, written down."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.run_dir import write_csv
from classifier_training.core.types import TEST, TRAIN, VAL
from classifier_training.data.index import SPLIT_FOLDERS, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from classifier_training.data.index import SampleIndex

log = logging.getLogger(__name__)

DEFAULT_FRACTION = 0.15


def complete_splits(
    index: SampleIndex, *, val_fraction: float | None, test_fraction: float | None, seed: int
) -> SampleIndex:
    """Give every sample a split.

    Unsplit data is divided in three. Data that comes split keeps its splits; a missing validation split is cut from
    the training split, a missing test split is not, for then the data's own division would be no more.

    Raises:
        UserError: when a fraction is given that has nothing to divide, or leaves nothing to train on.
    """
    present = index.present_splits()
    if not present:
        fractions = {
            VAL: DEFAULT_FRACTION if val_fraction is None else val_fraction,
            TEST: DEFAULT_FRACTION if test_fraction is None else test_fraction,
        }
        if sum(fractions.values()) >= 1:
            raise UserError(
                f"data.val_fraction={fractions[VAL]} and data.test_fraction={fractions[TEST]} leave no training data",
                "two fractions that sum to less than 1",
                "data.val_fraction=0.15 data.test_fraction=0.15",
            )
        return index.with_splits(_draw(index.samples, fractions, seed=seed))
    _refuse_idle("test_fraction", test_fraction, TEST, present)
    if VAL in present:
        _refuse_idle("val_fraction", val_fraction, VAL, present)
        return index
    share = DEFAULT_FRACTION if val_fraction is None else val_fraction
    rows = [row for row, sample in enumerate(index.samples) if sample.split == TRAIN]
    drawn = _draw([index.samples[row] for row in rows], {VAL: share}, seed=seed)
    splits = [sample.split for sample in index.samples]
    for row, split in zip(rows, drawn, strict=True):
        splits[row] = split
    log.info("There is no validation split: %.0f %% of train was set aside for it.", 100 * share)
    return index.with_splits(splits)


def _draw(samples: Sequence[Sample], fractions: dict[str, float], *, seed: int) -> list[str]:
    """Draw a split for each picture; all its rows take it, under the rarest of its labels."""
    counts = Counter(sample.label for sample in samples)
    labels: dict[str, str] = {}
    for sample in samples:
        label = labels.setdefault(sample.path, sample.label)
        labels[sample.path] = min(label, sample.label, key=lambda name: (counts[name], name))
    drawn = dict(zip(labels, stratified_split(list(labels.values()), fractions, seed=seed), strict=True))
    return [drawn[sample.path] for sample in samples]


def report_overlap(index: SampleIndex) -> None:
    """Warn when a picture is in more than one split."""
    splits: dict[str, set[str]] = {}
    for sample in index.samples:
        splits.setdefault(sample.path, set()).add(sample.split)
    shared = [path for path, found in splits.items() if len(found) > 1]
    if shared:
        log.warning(
            "%d images are in more than one split, so the scores will be too good: %s",
            len(shared), enumerate_words(shared, limit=3),
        )  # fmt: skip


def stratified_split(labels: Sequence[str], fractions: dict[str, float], *, seed: int) -> list[str]:
    """Draw each held-out split from every class in its proportion, and at least one sample where the class has enough.

    The training split always keeps at least one sample of every class, which scikit-learn's stratified splitters
    refuse to do for classes of one or two. A class's draw depends on its name and samples alone, so that adding a class
    moves nothing elsewhere.

    Args:
        labels: class name of each sample [N].
        fractions: share of each held-out split.
        seed: the draw.

    Returns:
        The split of each sample [N].
    """
    names = np.asarray(labels, dtype=object)
    splits = np.full(len(names), TRAIN, dtype=object)
    for label in sorted(set(labels)):
        rows: NDArray[np.int64] = np.flatnonzero(names == label)
        order = np.random.default_rng([seed, *label.encode()]).permutation(rows)
        start = 0
        for split, fraction in fractions.items():
            wanted = max(round(len(rows) * fraction), 1)
            count = max(min(wanted, len(rows) - start - 1), 0)
            splits[order[start : start + count]] = split
            start += count
    return [str(split) for split in splits]


def write_manifest(path: Path, index: SampleIndex) -> None:
    """Write splits.csv: path (relative to the data root), label, split and group of every sample."""
    rows = ((sample.path, sample.label, sample.split, sample.group) for sample in index.samples)
    write_csv(path, ("path", "label", "split", "group"), rows)


def read_manifest(path: Path) -> list[Sample]:
    """Read what `write_manifest` wrote.

    Raises:
        UserError: when the file is missing or its columns are wrong.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [Sample(row["path"], row["label"], row["split"], row["group"]) for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise UserError(
            f"{path}: no split manifest ({type(error).__name__}: {error})",
            "a CSV file with the columns path, label, split, group",
            "restore it from a copy of the run folder, or name other data: data.root=…",
        ) from error


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
    kept = tuple(sample for sample in manifest if (sample.path, sample.label) in present)
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
        f"data.{option}={value} has no effect: {came}", "a fraction only for data that is not split", remedy
    )
