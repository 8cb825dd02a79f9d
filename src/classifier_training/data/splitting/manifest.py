"""The file splits.csv: path, label, split and group of every sample, as runs write it and people give it."""

from __future__ import annotations

import csv
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.files import escapes
from classifier_training.core.run_dir import write_csv
from classifier_training.core.runtime import command
from classifier_training.data.formats.listing import open_text
from classifier_training.data.index import split_of
from classifier_training.data.samples import Samples, SamplesBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.columns import Texts
    from classifier_training.data.index import SampleIndex

REPLAYED = "replayed"
"""The column of splits.csv for images that the run before was trained on."""


def write_manifest(
    path: Path, index: SampleIndex, folds: Iterable[int] | None = None, replayed: Iterable[bool] | None = None
) -> None:
    """Write splits.csv: path (relative to the data root), label, split and group of every sample.

    Args:
        path: of the file.
        index: the samples.
        folds: of a cross-validation, the fold of each sample, as a fifth column; -1, which is written as an empty cell,
            for a sample of none.
        replayed: of a run that trains again, whether the run before was trained on each sample, as the fifth column: 1,
            or an empty cell.
    """
    columns: dict[str, Iterable[object]] = {
        "path": index.paths, "label": index.labels, "split": index.splits, "group": index.groups,
    }  # fmt: skip
    if folds is not None:
        columns["fold"] = ("" if fold < 0 else fold for fold in folds)
    if replayed is not None:
        columns[REPLAYED] = ("1" if one else "" for one in replayed)
    write_csv(path, tuple(columns), zip(*columns.values(), strict=True))


def read_replayed(path: Path) -> set[str]:
    """Read the paths of the images that `write_manifest` marked as replayed."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"] for row in csv.DictReader(file) if row.get(REPLAYED)}


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


def read_manifest(path: Path) -> Samples:
    """Read what `write_manifest` wrote.

    Raises:
        UserError: when the file is missing, its columns are wrong, or a path leads out of the data folder.
    """
    builder = SamplesBuilder()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            places = [header.index(name) for name in ("path", "label", "split", "group")]
            builder.extend(map(itemgetter(*places), filter(None, rows)))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent}: is no run folder, for it has no {path.name}",
            "a folder that train wrote",
            f"{command('registry list')} shows the runs",
        ) from error
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(
            f"{path}: no split manifest ({type(error).__name__}: {error})",
            "a CSV file with the columns path, label, split, group",
            "restore it from a copy of the run folder, or name other data: data.root=…",
        ) from error
    samples = builder.samples()
    escaping = _first_escaping(samples.paths)
    if escaping is not None:
        raise UserError(
            f"{path}: the path {escaping!r} leads out of the data folder",
            "paths relative to data.root, as the run wrote them",
            "restore the file from a copy of the run folder that you trust",
        )
    return samples


def _first_escaping(paths: Texts) -> str | None:
    """The first path that leads out of its folder; one by one only where the bytes leave it open."""
    is_clear = b".." not in paths.data and b"\0" not in paths.data
    open_ones = paths[np.isin(paths.initials(), np.frombuffer(b"\0/.", np.uint8))] if is_clear else paths
    return next(filter(escapes, open_ones), None)


def read_labels(file: Path) -> list[tuple[str, str]]:
    """Read the path and label of each row of a splits.csv; rows without a label are left out.

    Raises:
        UserError: when the file cannot be read.
    """
    given, has_label = read_rows(file)
    return [*zip(given.paths[has_label], given.labels[has_label], strict=True)]


def read_rows(file: Path) -> tuple[Samples, NDArray[np.bool_]]:
    """Read the rows of a splits.csv, and which have a label [N].

    Raises:
        UserError: when the file cannot be read, or a row has no path or split.
    """
    if not file.is_file():
        raise UserError(f"data.splits={file}: no such file", "the splits.csv of a run", "check the spelling")
    reader = csv.reader(open_text(file))
    header = next(reader, [])
    if not {"path", "split"} <= set(header):
        raise UserError(
            f"{file}: no columns path and split, but {', '.join(header) or 'nothing'}",
            "a CSV file with the columns path, label, split, group",
            "the splits.csv of a run: data.splits=outputs/…/splits.csv",
        )
    width = len(header)
    cells = itemgetter(
        *(header.index(name) if name in header else width for name in ("path", "label", "split", "group"))
    )
    has_label, split_named = bytearray(), cache(split_of)

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for row in filter(None, reader):
            # A cell that the file or the row lacks is None.
            whole = (*row[:width], *[None] * (width + 1 - min(len(row), width)))
            path, label, word, group = cells(whole)
            split = split_named(word or "")
            if not path or not split:
                raise UserError(
                    f"{file}:{reader.line_num}: path {path!r}, split {word!r}",
                    "a path and train, val or test",
                    "correct the line",
                )
            has_label.append(label is not None)
            yield path, label or "", split, group or ""

    builder = SamplesBuilder()
    builder.extend(rows())
    return builder.samples(), np.frombuffer(bytes(has_label), bool)
