"""All labels of a run's images, ranked by how wrong they look to models that were not trained on them."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.display import progress
from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.run_dir import RunDir, make_folder, write_csv
from classifier_training.core.runtime import command, num_cores, setting
from classifier_training.core.types import TEST, TRAIN, VAL, softmax
from classifier_training.data.checking.duplicates import find_copies, join
from classifier_training.data.checking.scan import scan_files
from classifier_training.evaluation.label_quality import (
    cross_fitted,
    find_label_issues,
    outlier_scores,
    probability_type,
)
from classifier_training.evaluation.results import TOP_K
from classifier_training.registry.runs import find_run
from classifier_training.workflows.datasets.data_page import DataReportDir
from classifier_training.workflows.evaluating.corrections_effect import corrections_words
from classifier_training.workflows.evaluating.features import run_features
from classifier_training.workflows.evaluating.label_page import write_label_page
from classifier_training.workflows.evaluating.run_model import open_model
from classifier_training.workflows.evaluating.samples import own_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.data.samples import Sample
    from classifier_training.workflows.evaluating.features import RunFeatures

log = logging.getLogger(__name__)

MAX_BELIEVABLE = 0.3
"""Share of doubtful labels above which the model is doubted instead."""

BY_FOLDS = "out-of-fold predictions"
BY_PROBES = "linear probes on the network's features, each fitted without the image"
BY_NETWORK = "the network, which was not trained on them"
NOBODY = "no model"
JUDGES = (BY_FOLDS, BY_PROBES, BY_NETWORK, NOBODY)
"""Whose probabilities judge a label. No model judges a training image where the network has no features, or whose label
no other image has."""


@dataclass(frozen=True, kw_only=True)
class JudgedLabels:
    """The labels of all images that could be read [N].

    Args:
        root: folder of the images.
        samples: path relative to the folder, label, split and group.
        class_names: [K].
        probabilities: of models that were not trained on the image [N, K]; NaN where there are none.
        judges: whose probabilities they are, of `JUDGES` [N].
        folds: number of the fold that they are of; -1 where not of one [N].
        quality: probability of the label, float64 [N]; NaN where it was not judged.
        outliers: how unlike the training images an image is, float64 [N] from 0 to 1; NaN where unknown.
        duplicate_of: another image that shows the same and has another label, by row.
        order: rows, the most doubtful first, int64 [N].
        num_issues: the first so many of these are doubtful.
    """

    root: Path
    samples: Sequence[Sample]
    class_names: Sequence[str]
    probabilities: NDArray[np.floating]
    judges: Sequence[str]
    folds: NDArray[np.int64]
    quality: NDArray[np.float64]
    outliers: NDArray[np.float64]
    duplicate_of: dict[int, int]
    order: NDArray[np.int64]
    num_issues: int

    def suggested(self, row: int) -> tuple[str, float] | None:
        """The most probable class and its probability; None where the label was not judged."""
        if np.isnan(self.quality[row]):
            return None
        number = int(self.probabilities[row].argmax())
        return self.class_names[number], float(self.probabilities[row, number])


@dataclass(frozen=True)
class LabelReport:
    """What was found.

    Args:
        run: the run.
        folder: where it is written.
        labels: all of them.
    """

    run: Path
    folder: DataReportDir
    labels: JudgedLabels

    @property
    def num_images(self) -> int:
        """Images whose labels were ranked."""
        return len(self.labels.samples)

    @property
    def num_issues(self) -> int:
        """Doubtful labels among them."""
        return self.labels.num_issues

    def __str__(self) -> str:
        labels = self.labels
        total = Counter(zip((sample.split for sample in labels.samples), labels.judges, strict=True))
        rows = labels.order[: labels.num_issues].tolist()
        doubtful = Counter((labels.samples[row].split, labels.judges[row]) for row in rows)
        lines = [f"{plural(self.num_issues, 'doubtful label')} among {plural(self.num_images, 'image')}"]
        for (split, judge), number in sorted(total.items(), key=lambda item: (TRAIN, VAL, TEST).index(item[0][0])):
            lines.append(f"  {split}: {doubtful[split, judge]:,} of {number:,}, judged by {judge}")
        if labels.duplicate_of:
            lines.append(f"  {plural(len(labels.duplicate_of), 'image')} with a duplicate that has another label")
        return "\n".join(
            [
                *lines,
                *corrections_words(RunDir(self.run)),
                f"ranked list: {self.folder.label_issues}",
                f"report: {self.folder.page}",
                f"next: {command('review')} {setting('run', self.run)}",
            ]
        )


def report_labels(run: str, *, moved_to: str | None, output: str | None) -> LabelReport:
    """Rank the labels of all images of a run; see the module's docstring.

    A cross-validated run has out-of-fold predictions for its training images. Those of another run are judged by linear
    probes, fitted to the features of other training images; no network is trained. Validation and test images are
    judged by the network itself. Its weights were chosen by the validation images, so that a little of those was seen.

    Args:
        run: a folder, latest or best.
        moved_to: folder that its images are in now, if not where they were.
        output: folder for the results; label_issues inside the run when left out.

    Raises:
        UserError: when the run or its images cannot be found.
    """
    run_dir = find_run(run)
    folder = DataReportDir(Path(output).expanduser() if output else run_dir.label_issues)
    make_folder(folder.path)
    labels = judge_labels(run_dir, moved_to=moved_to)
    _write_list(folder, labels)
    write_label_page(folder.page, run_dir.path, labels)
    judged = int(np.isfinite(labels.quality).sum())
    if labels.num_issues > MAX_BELIEVABLE * judged:
        log.warning(
            "%.0f %% of the labels are contradicted: it is the model that is weak, and its list says little",
            100 * labels.num_issues / max(judged, 1),
        )  # fmt: skip
    return LabelReport(run_dir.path, folder, labels)


def judge_labels(run_dir: RunDir, *, moved_to: str | None = None) -> JudgedLabels:
    """Judge the labels of all images of a run.

    Raises:
        UserError: when the run or its images cannot be found, or none can be read.
    """
    found = _judged(run_dir, moved_to)
    numbers = {name: number for number, name in enumerate(found.class_names)}
    unknown = Counter(sample.label for sample in found.samples if sample.label not in numbers)
    if unknown:
        log.warning(
            "%s with labels that the model does not know are left out: %s",
            plural(unknown.total(), "image"), enumerate_words(sorted(map(repr, unknown))),
        )  # fmt: skip
        found = found.only([row for row, sample in enumerate(found.samples) if sample.label in numbers])
    if not found.samples:
        raise UserError(
            f"{run_dir.path}: no image of the run has a label that can be judged",
            "the images of the run, with the labels that it was trained with",
            "name the folder that they are in now: data.root=…",
        )
    targets = np.array([numbers[sample.label] for sample in found.samples], dtype=np.int64)
    issues = find_label_issues(targets, found.probabilities, found.judges, biased=[JUDGES.index(BY_PROBES)])
    duplicate_of = _other_labels(found.copies, found.samples)
    doubtful = np.zeros(len(targets), dtype=bool)
    doubtful[issues.rows] = True
    doubtful[list(duplicate_of)] = True
    judges = [
        JUDGES[judge] if np.isfinite(quality) else NOBODY
        for judge, quality in zip(found.judges, issues.quality, strict=True)
    ]
    return JudgedLabels(
        root=found.root,
        samples=found.samples,
        class_names=found.class_names,
        probabilities=found.probabilities,
        judges=judges,
        folds=found.folds,
        quality=issues.quality,
        outliers=found.outliers,
        duplicate_of=duplicate_of,
        order=np.lexsort((issues.quality, ~doubtful)),
        num_issues=int(doubtful.sum()),
    )


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """Images of a run with probabilities of their classes; `judges` are places in `JUDGES`, else see `JudgedLabels`."""

    root: Path
    samples: Sequence[Sample]
    class_names: tuple[str, ...]
    probabilities: NDArray[np.floating]
    judges: NDArray[np.int64]
    folds: NDArray[np.int64]
    outliers: NDArray[np.float64]
    copies: list[tuple[int, ...]]

    def only(self, rows: list[int]) -> _Judged:
        """Some of the images."""
        place = {row: number for number, row in enumerate(rows)}
        groups = (tuple(place[row] for row in group if row in place) for group in self.copies)
        arrays = {name: getattr(self, name)[rows] for name in ("probabilities", "judges", "folds", "outliers")}
        samples = [self.samples[row] for row in rows]
        return replace(self, **arrays, samples=samples, copies=[group for group in groups if len(group) > 1])


def _judged(run_dir: RunDir, moved_to: str | None) -> _Judged:
    has_folds = run_dir.out_of_fold.exists()
    features = _features(RunDir(run_dir.path / "folds" / "0") if has_folds else run_dir, moved_to)
    rows, root = own_samples(run_dir, moved_to=moved_to)
    places = {} if features is None else {path: place for place, path in enumerate(features.paths)}
    if features is not None:
        rows = [row for row in rows if row.path in places]
    own = np.array([places.get(row.path, -1) for row in rows], dtype=np.int64)
    is_train = np.array([row.split == TRAIN for row in rows])
    copies = _copies(root, rows)
    outliers = np.full(len(rows), np.nan)
    if features is not None:
        outliers = outlier_scores(features.values[own], is_train)
    folds = np.full(len(rows), -1)
    if features is not None and not has_folds:
        class_names = features.class_names
        kind = probability_type(len(rows), len(class_names))
        probabilities = softmax(features.logits[own] / np.float32(features.temperature)).astype(kind, copy=False)
        probabilities[is_train] = np.nan
        judged = np.flatnonzero(is_train & (features.targets[own] >= 0))
        groups = _groups(rows, copies)
        probabilities[judged] = cross_fitted(
            features.values[own[judged]], features.targets[own[judged]], [groups[row] for row in judged],
            len(class_names),
        )  # fmt: skip
    else:
        predictor = open_model(str(run_dir.path)).predictor
        class_names = predictor.class_names
        kind = probability_type(len(rows), len(class_names))
        probabilities = np.full((len(rows), len(class_names)), np.nan, kind)
        held_out = np.flatnonzero(~is_train)
        with progress("predicting", total=lambda: len(held_out)) as advance:
            predictions = predictor.predict([root / rows[row].path for row in held_out.tolist()], probabilities=True)
            for row, prediction in zip(held_out, predictions, strict=True):
                advance(1)
                if prediction.probabilities is None:
                    log.warning("not judged: %s: %s", prediction.path, prediction.error)
                else:
                    probabilities[row] = [prediction.probabilities[name] for name in class_names]
        if has_folds:
            _read_out_of_fold(run_dir.out_of_fold, rows, class_names, probabilities, folds)
    judges = np.where(is_train, JUDGES.index(BY_FOLDS if has_folds else BY_PROBES), JUDGES.index(BY_NETWORK))
    return _Judged(
        root=root, samples=rows, class_names=class_names, probabilities=probabilities, judges=judges, folds=folds,
        outliers=outliers, copies=copies,
    )  # fmt: skip


def _features(run_dir: RunDir, moved_to: str | None) -> RunFeatures | None:
    try:
        return run_features(run_dir, moved_to=moved_to)
    except UserError as error:
        log.warning("without features of the network: %s; %s", error.came, error.remedy)
        return None


def _read_out_of_fold(
    file: Path,
    rows: Sequence[Sample],
    class_names: Sequence[str],
    probabilities: NDArray[np.floating],
    folds: NDArray[np.int64],
) -> None:
    """Take probabilities and folds from out_of_fold.csv, in place."""
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.path, row.label].append(place)
    known = {row.path for row in rows}
    columns = [f"prob_{name}" for name in class_names]
    numbers = {name: number for number, name in enumerate(class_names)}
    with file.open(encoding="utf-8", newline="") as opened:
        for line in csv.DictReader(opened):
            # The paths are those of the day, and begin with a folder that may be another one now.
            parts = Path(line["path"]).parts
            path = next((tail for start in range(len(parts)) if (tail := "/".join(parts[start:])) in known), "")
            for place in places[path, line["true"]]:
                if TOP_K in line:
                    # Of very many predictions the table has the most probable classes; the loss says that of the label.
                    found = {numbers[one["label"]]: one["probability"] for one in json.loads(line[TOP_K])}
                    found[numbers[line["true"]]] = math.exp(-float(line["loss"]))
                    probabilities[place] = 0
                    probabilities[place, list(found)] = list(found.values())
                else:
                    probabilities[place] = [float(line[name]) for name in columns]
                folds[place] = int(line["fold"])


def _copies(root: Path, rows: Sequence[Sample]) -> list[tuple[int, ...]]:
    """Groups of rows whose files are exact or near duplicates."""
    paths = list(dict.fromkeys(row.path for row in rows))
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.path].append(place)
    with progress("looking for duplicates", total=lambda: len(paths)) as advance:
        copies = find_copies(scan_files(root, paths, num_workers=num_cores(), progress=advance))
    links = [(group[0], other) for group in (*copies.exact, *copies.near) for other in group[1:]]
    return [tuple(row for place in group for row in places[paths[place]]) for group in join(len(paths), links)]


def _groups(rows: Sequence[Sample], copies: Sequence[tuple[int, ...]]) -> list[int]:
    """Number the groups that must be in one fold: those of the data, one file, or duplicates of it."""
    first: dict[tuple[str, str], int] = {}
    links = [(group[0], other) for group in copies for other in group[1:]]
    for place, row in enumerate(rows):
        keys = [("path", row.path), *([("group", row.group)] if row.group else [])]
        links += [(first.setdefault(key, place), place) for key in keys]
    numbers = list(range(len(rows)))
    for joined in join(len(rows), links):
        for place in joined:
            numbers[place] = joined[0]
    return numbers


def _other_labels(copies: Sequence[tuple[int, ...]], rows: Sequence[Sample]) -> dict[int, int]:
    """Of each image with a duplicate that has other labels, that duplicate. An image may have several labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.path].add(row.label)
    found = {}
    for group in copies:
        for place in group:
            other = next((one for one in group if labels[rows[one].path] != labels[rows[place].path]), None)
            if other is not None:
                found[place] = other
    return found


def _write_list(folder: DataReportDir, labels: JudgedLabels) -> None:
    def cell(value: float) -> str:
        return f"{value:.6f}" if np.isfinite(value) else ""

    def line(place: int, row: int) -> tuple[object, ...]:
        sample, suggested, fold = labels.samples[row], labels.suggested(row), int(labels.folds[row])
        other = labels.duplicate_of.get(row)
        return (
            str(labels.root / sample.path),
            sample.split,
            sample.label,
            "" if suggested is None else suggested[0],
            "" if suggested is None else cell(suggested[1]),
            cell(labels.quality[row]),
            str(place < labels.num_issues).lower(),
            "" if fold < 0 else fold,
            "" if other is None else str(labels.root / labels.samples[other].path),
            cell(labels.outliers[row]),
        )

    header = (
        "path", "split", "label", "suggested", "confidence", "label_quality", "is_issue", "fold", "duplicate_of",
        "outlier",
    )  # fmt: skip
    write_csv(folder.label_issues, header, (line(place, row) for place, row in enumerate(labels.order.tolist())))
