"""Splits that are read from a file, so that two models compare on the same images."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.types import TRAIN
from classifier_training.data.formats.listed import open_text
from classifier_training.data.index import Sample, SampleIndex, split_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

log = logging.getLogger(__name__)


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
