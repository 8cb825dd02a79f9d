"""What is reviewed: the images of a run or of a data folder, with their labels and what the model says of them.

All of it is read once and held in memory; a request reads no table.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.columns import Texts
from classifier_training.core.errors import UserError, plural
from classifier_training.core.labels import read_mapping, sort_labels
from classifier_training.core.register import with_settings
from classifier_training.core.run_reader import DamagedFileError, read_rows, read_values
from classifier_training.core.storage.places import is_remote
from classifier_training.data.corrections import AUTO, FILE_NAME
from classifier_training.data.index import is_image
from classifier_training.data.splitting.manifest import read_manifest
from classifier_training.data.walk import DataErrors, Walker
from classifier_training.evaluation.results import TOP_K
from classifier_training.workflows.datasets.data_page import DataReportDir
from classifier_training.workflows.evaluating.samples import own_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.formats.source import DataSource

log = logging.getLogger(__name__)

NUM_TOP = 3
"""Classes of a prediction that are kept and shown."""

PROBABILITY = "prob_"

OTHER_PREDICTIONS = ("evaluation/out_of_fold.csv", "evaluation_val/predictions.csv")
"""Tables of a run, besides its test predictions, of images that its model was not trained on."""


@dataclass(frozen=True)
class Place:
    """A file of corrections, and which paths of the data it is about.

    Args:
        file: that decisions are added to.
        prefix: of the paths that it is about, with a slash at its end; they stand in it without it.
    """

    file: Path
    prefix: str = ""


@dataclass(frozen=True)
class Predicted:
    """What a model says of the images; of those that it was not asked about, classes are -1 and numbers NaN.

    Args:
        class_names: of the model [K].
        top: the most probable classes, the first first, int32 [N, 3].
        probabilities: of these, float32 [N, 3].
        losses: cross-entropy with the label that the image had then, float32 [N].
        own: probability of that label, float32 [N].
        labels: that label, by its class, int32 [N].
        is_rejected: whether the table says that the prediction is rejected, bool [N].
    """

    class_names: tuple[str, ...]
    top: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    losses: NDArray[np.float32]
    own: NDArray[np.float32]
    labels: NDArray[np.int32]
    is_rejected: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.int64]:
        """Rows of the images that there is a prediction for."""
        return np.flatnonzero(self.top[:, 0] >= 0)


@dataclass(frozen=True)
class Issues:
    """The list of doubtful labels that `analyze run=` wrote.

    Args:
        rows: of the doubtful labels, the most doubtful first, int64 [M].
        suggested: label that the model suggests instead, and its probability, by row.
        copies: path of a near duplicate that has another label, by row.
        outliers: how unlike the training images an image is, from 0 to 1, float32 [N]; NaN where unknown.
    """

    rows: NDArray[np.int64]
    suggested: Mapping[int, tuple[str, float]]
    copies: Mapping[int, str]
    outliers: NDArray[np.float32]


@dataclass(frozen=True)
class Collection:
    """The images in the order of the data.

    Args:
        title: for people.
        root: folder that the paths begin from.
        paths: relative to it [N].
        labels: in the data, before any correction [N]; empty for images without labels.
        splits: train, val, test or empty [N].
        places: files of corrections.
        follows_links: whether a file may be outside the root.
        run: whose images they are.
        predicted: what its model says.
        issues: doubtful labels, where they were looked for.
        is_labelled: whether the data has labels; else decisions give them.
        more_labels: that the run knows and no image has.
        chosen: rows of the images that are worth labelling next, the first first.
        notes: why an image is worth a look, by row, from a list.
    """

    title: str
    root: Path
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    places: tuple[Place, ...]
    follows_links: bool = False
    run: RunDir | None = None
    predicted: Predicted | None = None
    issues: Issues | None = None
    is_labelled: bool = True
    more_labels: tuple[str, ...] = field(default=(), repr=False)
    chosen: tuple[int, ...] = ()
    notes: Mapping[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """A name of each image that says nothing and is the same in the next session [N]."""
        return tuple(
            hashlib.blake2b(f"{path}\0{label}".encode(), digest_size=9).hexdigest()
            for path, label in zip(self.paths, self.labels, strict=True)
        )

    @cached_property
    def rows(self) -> dict[str, int]:
        """Place of each image by its id."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def samples(self) -> dict[tuple[str, str], int]:
        """Place of each image by its path and its label in the data."""
        return {key: row for row, key in enumerate(zip(self.paths, self.labels, strict=True))}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The labels that can be given."""
        known = self.labels if self.is_labelled else ()
        return sort_labels([*known, *self.more_labels, *(self.predicted.class_names if self.predicted else ())])

    def suggestion(self, row: int) -> str | None:
        """The label that is proposed for an image: that of the list of issues, or the one that the model predicts."""
        if self.issues and row in self.issues.suggested:
            return self.issues.suggested[row][0]
        number = int(self.predicted.top[row, 0]) if self.predicted else -1
        return self.predicted.class_names[number] if self.predicted and number >= 0 else None


def collect_run(run: RunDir, *, moved_to: str | list[str] | None, corrections: str | None) -> Collection:
    """Read the images of a run with what its model says of them.

    Args:
        run: a finished run.
        moved_to: where its images are now, if not where they were.
        corrections: setting `data.corrections` of the command; the run's own when it is auto.

    Raises:
        UserError: when the run has no list of its images, or they are not to be found.
    """
    if not run.splits.is_file() or not run.config.is_file():
        raise UserError(
            f"run={run.path}: no {run.splits.name} or no {run.config.name}, so the run's images are not known",
            "the folder of a run, as train wrote it",
            "review its data: review data.root=/my/images",
        )
    source = own_source(run)
    if moved_to is not None:
        source = with_settings(source, root=moved_to)
    index = source.read()
    splits = {sample.path: sample.split for sample in read_manifest(run.splits)}
    samples = dict.fromkeys(
        (sample.path, sample.label, splits[sample.path]) for sample in index.samples if sample.path in splits
    )
    if not samples:
        raise UserError(
            f"{index.root}: none of the {plural(len(splits), 'image')} of {run.splits} are there",
            "the images that the run was trained on",
            "name the folder that they are in now: data.root=/my/images",
        )
    if left := len(splits) - len({path for path, _, _ in samples}):
        log.warning("%s of the run are not in %s any more", plural(left, "image"), index.root)
    paths, labels, where = map(tuple, zip(*samples, strict=True))
    chosen = source.corrections if corrections == AUTO else corrections
    by_path: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        by_path.setdefault(path, []).append(row)
    predicted = read_predictions(run, by_path, len(paths))
    return Collection(
        title=f"{run.path.name}: {index.root}",
        root=index.root,
        paths=paths,
        labels=labels,
        splits=where,
        places=_places(source, index.root, chosen),
        follows_links=bool(getattr(source, "follow_links", True)),
        run=run,
        predicted=predicted,
        issues=_read_issues(run, by_path, len(paths)),
    )


def collect_data(data: DataSource) -> Collection:
    """Read the images of a data folder.

    Raises:
        UserError: when there are none.
    """
    index = data.read()
    samples = dict.fromkeys((sample.path, sample.label, sample.split) for sample in index.samples)
    paths, labels, splits = map(tuple, zip(*samples, strict=True))
    return Collection(
        title=str(index.root),
        root=index.root,
        paths=paths,
        labels=labels,
        splits=splits,
        places=_places(data, index.root, data.corrections),
        follows_links=bool(getattr(data, "follow_links", True)),
    )


def collect_unlabelled(run: RunDir, source: str) -> Collection:
    """List the images of a folder without labels, those first that `analyze label_next=` chose for the run.

    Args:
        run: whose classes are given.
        source: the folder.

    Raises:
        UserError: when there is no such folder or no image in it, or the run does not say what its classes are.
    """
    root = Path(source).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"source={source}: no such folder", "a folder of images without labels", "check the spelling")
    files = Walker(root, follow_links=True, errors=DataErrors()).files(root)
    begin = len(str(root).rstrip("/")) + 1
    paths = tuple(sorted(path[begin:] for path in files if is_image(path)))
    if (name := Texts.of(paths).first_not_utf8()) is not None:
        raise UserError(f"{name!r}: the name is not UTF-8", "names in UTF-8", "rename the file or folder")
    if not paths:
        raise UserError(f"source={source}: no image", "a folder of images without labels", "check the spelling")
    try:
        names = read_mapping(read_values(run.labels_mapping))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.labels_mapping}: the classes of the run are not known ({error})", "a finished run", "run=latest"
        ) from error
    rows = {path: row for row, path in enumerate(paths)}
    listed = _read_next(run, root)
    chosen = tuple(rows[line["path"]] for line in listed if line["path"] in rows)
    predicted = Predicted(
        names,
        np.full((len(paths), NUM_TOP), -1, np.int32),
        np.full((len(paths), NUM_TOP), np.nan, np.float32),
        np.full(len(paths), np.nan, np.float32),
        np.full(len(paths), np.nan, np.float32),
        np.full(len(paths), -1, np.int32),
        np.zeros(len(paths), bool),
    )
    for line in listed:
        if line["path"] in rows and line["predicted"] in names:
            row = rows[line["path"]]
            predicted.top[row, 0] = names.index(line["predicted"])
            predicted.probabilities[row, 0] = float(line["confidence"])
    return Collection(
        title=f"{root}, for {run.path.name}",
        root=root,
        paths=paths,
        labels=("",) * len(paths),
        splits=("",) * len(paths),
        places=(Place(root / FILE_NAME),),
        follows_links=True,
        run=run,
        predicted=predicted,
        is_labelled=False,
        more_labels=names,
        chosen=chosen,
        notes={rows[line["path"]]: line["reason"] for line in listed if line["path"] in rows},
    )


def _read_next(run: RunDir, root: Path) -> list[dict[str, str]]:
    """Read the list of what to label next; empty where there is none for this folder."""
    try:
        about = read_values(run.label_next / "label_next.json")
        if Path(str(about.get("data", ""))).resolve() != root:
            return []
        return read_rows(run.label_next / "label_next.csv")
    except FileNotFoundError:
        return []


def _places(source: DataSource, base: Path, setting: str | None) -> tuple[Place, ...]:
    """The files of corrections that a training on this data would read; see `data.corrections.find_corrections`."""
    if setting is None:
        raise UserError(
            "data.corrections=null: there is no file to write decisions to",
            "a file of corrections, or auto",
            "data.corrections=FILE",
        )
    if setting != AUTO:
        return (Place(Path(setting).expanduser().absolute()),)
    root = getattr(source, "root", None)
    found = []
    for name in root if isinstance(root, list) else [root]:
        if name is None or is_remote(name):
            raise UserError(
                "the data is not in a folder of this machine, beside which decisions could be written",
                "a file for them",
                "data.corrections=corrections.csv, here and for train",
            )
        path = Path(name).expanduser()
        folder = (path if path.is_dir() else path.parent).resolve()
        prefix = folder.relative_to(base).as_posix() if folder.is_relative_to(base) else "."
        found.append(Place(folder / FILE_NAME, "" if prefix == "." else f"{prefix}/"))
    return tuple(found)


def read_predictions(run: RunDir, rows: Mapping[str, Sequence[int]], number: int) -> Predicted | None:
    """Read what a run predicted for images, given as the rows of each path; None where it has no tables.

    Raises:
        DamagedFileError: for a table that is none.
    """
    found: Predicted | None = None
    for path in (run.predictions, *(run.path / name for name in OTHER_PREDICTIONS)):
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", newline="") as file:
            try:
                found = _add_predictions(found, csv.reader(file), rows, number, path, run)
            except (ValueError, IndexError, KeyError, TypeError, csv.Error) as error:
                raise DamagedFileError(path, f"no table of predictions: {error}") from error
    return found


def _add_predictions(
    before: Predicted | None,
    reader: Iterator[list[str]],
    rows: Mapping[str, Sequence[int]],
    number: int,
    path: Path,
    run: RunDir,
) -> Predicted | None:
    header = next(reader, [])
    first = next((place for place, name in enumerate(header) if name.startswith(PROBABILITY)), len(header))
    last = next((at for at, name in enumerate(header) if at >= first and not name.startswith(PROBABILITY)), len(header))
    names = tuple(name.removeprefix(PROBABILITY) for name in header[first:last])
    # A table of very many predictions has the most probable classes alone.
    is_short = not names and TOP_K in header
    if is_short:
        names = read_mapping(read_values(run.labels_mapping))
    if not names or (before and before.class_names != names):
        log.warning("%s is left out: it is of other classes", path)
        return before
    found = before or Predicted(
        names,
        np.full((number, NUM_TOP), -1, np.int32),
        np.full((number, NUM_TOP), np.nan, np.float32),
        np.full(number, np.nan, np.float32),
        np.full(number, np.nan, np.float32),
        np.full(number, -1, np.int32),
        np.zeros(number, bool),
    )
    at = {name: place for place, name in enumerate(header)}
    classes = {name: place for place, name in enumerate(names)}
    lines = [line for line in reader if line]
    for line, path_rows in zip(lines, _matched([line[at["path"]] for line in lines], rows), strict=True):
        true, loss = classes.get(line[at["true"]], -1), float(line[at["loss"]] or "nan")
        if is_short:
            top = json.loads(line[at[TOP_K]])[:NUM_TOP]
            best = np.array([classes[one["label"]] for one in top])
            values, own = np.array([one["probability"] for one in top]), np.exp(-loss)
        else:
            shares = np.array(line[first:last], dtype=np.float32)
            best = np.argsort(-shares, kind="stable")[:NUM_TOP]
            values, own = shares[best], shares[true]
        for row in path_rows:
            if found.top[row, 0] >= 0:
                continue
            found.top[row, : len(best)], found.probabilities[row, : len(best)] = best, values
            found.losses[row] = loss
            found.labels[row] = true
            found.own[row] = own if true >= 0 else np.nan
            found.is_rejected[row] = "rejected" in at and line[at["rejected"]].lower() == "true"
    return found


def _read_issues(run: RunDir, rows: Mapping[str, Sequence[int]], number: int) -> Issues | None:
    file = DataReportDir(run.label_issues).label_issues
    if not file.is_file():
        return None
    lines = read_rows(file)
    doubtful: list[int] = []
    suggested, copies = {}, {}
    outliers = np.full(number, np.nan, np.float32)
    try:
        for line, found in zip(lines, _matched([line["path"] for line in lines], rows), strict=True):
            for row in found:
                if line["is_issue"] == "true":
                    doubtful.append(row)
                    suggested[row] = line["suggested"], float(line["confidence"])
                if line.get("duplicate_of"):
                    copies[row] = line["duplicate_of"]
                outliers[row] = float(line.get("outlier") or "nan")
    except (KeyError, ValueError) as error:
        raise DamagedFileError(file, f"no list of labels: {error}") from error
    return Issues(np.array(doubtful, dtype=np.int64), suggested, copies, outliers)


def _matched(paths: Iterable[str], rows: Mapping[str, Sequence[int]]) -> Iterator[Sequence[int]]:
    """Yield the rows of paths that tables have in full, also after the images were moved to another folder."""
    begin: str | None = None
    for path in paths:
        if begin is None or path[len(begin) :] not in rows or not path.startswith(begin):
            places = [0, *(at + 1 for at, letter in enumerate(path) if letter == "/")]
            begin = next((path[:at] for at in places if path[at:] in rows), None)
        yield rows[path[len(begin) :]] if begin is not None else ()
