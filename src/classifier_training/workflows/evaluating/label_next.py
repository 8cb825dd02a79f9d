"""Which images of a folder without labels are worth labelling next, and which labels the model proposes by itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.display import progress
from classifier_training.core.errors import UserError, enumerate_words, plural, shown
from classifier_training.core.run_dir import make_folder, write_csv, write_json
from classifier_training.core.run_reader import read_rows
from classifier_training.core.runtime import command, num_cores, setting
from classifier_training.core.types import TRAIN, softmax
from classifier_training.data.checking.duplicates import find_copies
from classifier_training.data.checking.scan import scan_files
from classifier_training.evaluation import report
from classifier_training.evaluation.neighbours import nearest
from classifier_training.evaluation.selection import choose_next
from classifier_training.inference.rejection import DEFAULT_THRESHOLD, RejectSettings
from classifier_training.inference.sources import find_source
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.features import FeatureExtractor, as_half, run_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.evaluation.selection import Strategy
    from classifier_training.inference.predictor import Predictor
    from classifier_training.inference.rejection import RejectRule
    from classifier_training.workflows.evaluating.features import ImageFeatures, RunFeatures

log = logging.getLogger(__name__)

STRATEGY: Strategy = "margin_k_centre"
"""The best on two data sets, by `scripts/bench/active_choice.py`."""

PRECISION = 0.95
"""Share of the proposed labels of each class that is right at least."""

SPARE = 2
"""Images that are chosen for each that is wanted: near duplicates among them are left out."""

LABELS_FILE = "labels.csv"
"""Beside the images: the labels that people gave already."""


@dataclass(frozen=True)
class LabelNext:
    """What was written.

    Args:
        folder: with label_next.csv, pseudo_labels.csv and report.html.
        data: folder of the images.
        num_images: that can be read and have no label yet.
        num_chosen: to label next.
        num_proposed: labels that the model proposes.
        why_none: why it proposes none; empty where it does.
    """

    folder: Path
    data: Path
    num_images: int
    num_chosen: int
    num_proposed: int
    why_none: str = ""

    def __str__(self) -> str:
        chosen = f"{plural(self.num_chosen, 'image')} to label next, of {self.num_images:,}"
        proposed = f"{plural(self.num_proposed, 'label')} proposed; nothing uses them by itself"
        return "\n".join(
            (
                f"{chosen}: {self.folder / 'label_next.csv'}",
                f"no label is proposed: {self.why_none}"
                if self.why_none
                else f"{proposed}: {self.folder / 'pseudo_labels.csv'}",
                f"page: {self.folder / 'report.html'}",
            )
        )


@dataclass(frozen=True)
class _Pool:
    """The images without labels: names below the folder, files, features [N, D], and what the model says [N, K]."""

    names: list[str]
    files: list[str]
    features: NDArray[np.floating]
    probabilities: NDArray[np.float32]
    novelty: list[float | None]


def report_label_next(
    run: str,
    data: str,
    number: int,
    *,
    precision: float = PRECISION,
    output: str | None = None,
    follow_links: bool = False,
) -> LabelNext:
    """Choose the images to label next, and write a list, a page and the labels that the model proposes.

    Images that labels.csv beside them has already are left out, and so are near duplicates of a training image or of
    one that was chosen before.

    Args:
        run: a finished run, as for `find_run`.
        data: the folder of images, or what else `predict` takes as its source.
        number: of images to choose.
        precision: share of the proposed labels of each class that is right at least, on images like the validation
            ones; tested as reject.precision is.
        output: folder to write to; label_next inside the run when left out.
        follow_links: whether links out of the folder are followed.

    Raises:
        UserError: when there is no such run or folder, no image of it can be read, or all have labels.
    """
    run_dir = find_run(run)
    folder = Path(output).expanduser() if output else run_dir.label_next
    make_folder(folder)
    try:
        known = run_features(run_dir)
    except UserError as error:
        moved = f"{command('analyze')} {setting('run', run_dir.path)} data.root=/where/they/are"
        raise UserError(
            error.came, error.expected, f"{error.remedy}; if the run's images have moved, once: {moved}"
        ) from error
    extractor = FeatureExtractor(run_dir)
    root = Path(data).expanduser()
    pool = _read_pool(extractor, data, root, known.temperature, follow_links=follow_links)
    labelled = known.values[known.rows(TRAIN)]
    picked = choose_next(pool.probabilities, pool.features, labelled, SPARE * number, strategy=STRATEGY)
    rows, scores, num_copies = _without_copies(pool, known, picked.rows, picked.scores, number)
    reasons = _reasons(pool, known, rows)
    write_csv(
        folder / "label_next.csv",
        ("path", "score", "predicted", "confidence", "reason"),
        (
            (
                pool.names[row],
                f"{score:.6f}",
                known.class_names[pool.probabilities[row].argmax()],
                f"{pool.probabilities[row].max():.6f}",
                reason,
            )
            for row, score, reason in zip(rows, scores, reasons, strict=True)
        ),
    )
    proposed, why_none = _propose(extractor.predictor, pool, rows, precision)
    write_csv(
        folder / "pseudo_labels.csv",
        ("path", "label", "split", "confidence"),
        (
            (pool.names[row], known.class_names[pool.probabilities[row].argmax()], TRAIN,
             f"{pool.probabilities[row].max():.6f}")
            for row in proposed
        ),
    )  # fmt: skip
    found = LabelNext(folder, root, len(pool.names), len(rows), len(proposed), why_none)
    write_json(
        folder / "label_next.json",
        {
            "run": str(run_dir.path.absolute()),
            "data": str(root.absolute()),
            "strategy": STRATEGY,
            "num_images": found.num_images,
            "num_chosen": found.num_chosen,
            "num_near_duplicates": num_copies,
            "num_proposed": found.num_proposed,
            "precision": precision,
            "why_none_proposed": why_none,
        },
    )
    _write_page(run_dir, found, pool, known, rows, reasons, num_copies, precision)
    return found


def _read_pool(extractor: FeatureExtractor, data: str, root: Path, temperature: float, *, follow_links: bool) -> _Pool:
    source = find_source(data, follow_links=follow_links)
    table = root / LABELS_FILE
    done = {row.get("path", "") for row in read_rows(table)} if table.is_file() else set()
    items = [item for item in source if item.name not in done]
    kept: list[ImageFeatures] = []
    errors: list[str] = []
    with progress("features", total=lambda: len(items)) as advance:
        for one in extractor(items):
            advance(1)
            if one.error is None:
                kept.append(one._replace(features=as_half(one.features)))
            else:
                errors.append(f"{one.item.name} ({one.error})")
    if done:
        log.info("%s: %s left out, which are in %s", root, plural(len(done), "image"), table)
    if errors:
        log.warning(
            "%s left out, which cannot be read: %s", plural(len(errors), "image"), enumerate_words(errors, limit=3)
        )
    if not kept:
        raise UserError(
            f"{data}: no image without a label can be read",
            "a folder of images that are not labelled yet",
            f"name another one: {command('analyze')} /my/new/images run=… label_next=50",
        )
    logits = np.stack([one.logits for one in kept]) / np.float32(temperature)
    return _Pool(
        [one.item.name for one in kept],
        [one.item.path for one in kept],
        np.stack([one.features for one in kept]),
        softmax(logits),
        [one.novelty for one in kept],
    )


def _without_copies(
    pool: _Pool, known: RunFeatures, rows: NDArray[np.int64], scores: NDArray[np.float32], number: int
) -> tuple[list[int], list[float], int]:
    """The first images that no labelled image and no earlier one is a near duplicate of, and how many were."""
    train = known.rows(TRAIN)
    closest = train[nearest(known.values[train], pool.features[rows], 1).rows[:, 0]]
    files = [str(Path(pool.files[row]).absolute()) for row in rows]
    beside = [known.files[row] for row in dict.fromkeys(closest.tolist())]
    paths = list(dict.fromkeys([*beside, *files]))
    copies = find_copies(scan_files(Path("/"), paths, num_workers=num_cores()))
    group = {place: number for number, members in enumerate((*copies.exact, *copies.near)) for place in members}
    place_of = {path: place for place, path in enumerate(paths)}
    taken = {group.get(place_of[path]) for path in beside} - {None}
    kept, kept_scores, num_copies = [], [], 0
    for row, score, file in zip(rows.tolist(), scores.tolist(), files, strict=True):
        own = group.get(place_of[file])
        if own is not None and own in taken:
            num_copies += 1
            continue
        taken.add(own)
        kept.append(row)
        kept_scores.append(score)
        if len(kept) == number:
            break
    return kept, kept_scores, num_copies


def _reasons(pool: _Pool, known: RunFeatures, rows: Sequence[int]) -> list[str]:
    """Why each image was chosen, in words."""
    if not rows:
        return []
    similar = nearest(known.values[known.rows(TRAIN)], pool.features[list(rows)], 1).similarities[:, 0]
    found = []
    for row, similarity in zip(rows, similar.tolist(), strict=True):
        order = np.argsort(-pool.probabilities[row])[:2]
        first, *rest = (f"{shown(known.class_names[place])} {pool.probabilities[row, place]:.2f}" for place in order)
        found.append(f"{first}{f' or {rest[0]}' if rest else ''}; nearest training image {similarity:.2f}")
    return found


def _propose(predictor: Predictor, pool: _Pool, chosen: Sequence[int], precision: float) -> tuple[list[int], str]:
    """Images whose label the model proposes, the most confident first; or why there are none."""
    try:
        rule: RejectRule = predictor.rule(DEFAULT_THRESHOLD, RejectSettings(precision=precision), unknown=False)
    except UserError as error:
        # A lower precision takes fewer validation images.
        return [], f"{error.came.replace('reject.precision', 'pseudo_precision')}; needed: {error.expected}"
    calibration = predictor.calibration
    if calibration is not None and calibration.novelty is not None and None not in pool.novelty:
        rule = replace(rule, novelty_threshold=calibration.novelty.threshold)
    confidences = pool.probabilities.max(axis=1)
    names = [predictor.class_names[place] for place in pool.probabilities.argmax(axis=1)]
    taken = set(chosen)
    found = [
        row
        for row in np.argsort(-confidences, kind="stable").tolist()
        if row not in taken and rule.reason(names[row], float(confidences[row]), pool.novelty[row]) is None
    ]
    return found, "" if found else f"no prediction is confident enough for a precision of {precision:g}"


def _write_page(
    run_dir: RunDir,
    found: LabelNext,
    pool: _Pool,
    known: RunFeatures,
    rows: Sequence[int],
    reasons: Sequence[str],
    num_copies: int,
    precision: float,
) -> None:
    numbers = [
        (f"{found.num_images:,}", "images without labels"),
        (f"{found.num_chosen:,}", "to label next"),
        (f"{found.num_proposed:,}", "proposed labels"),
    ]
    images = report.thumbnails(
        report.thumbnail(
            Path(pool.files[row]),
            f"{place}. {shown(known.class_names[pool.probabilities[row].argmax()])}?",
            f"{reason}\n{pool.names[row]}",
        )
        for place, (row, reason) in enumerate(zip(rows, reasons, strict=True), start=1)
    )
    copies = f" {plural(num_copies, 'near duplicate')} left out." if num_copies else ""
    words = (
        "Images that the model is unsure of and that are unlike the training images, and unlike each other; the most "
        f"worthwhile first.{copies}"
    )
    if found.why_none:
        proposals = f"None: {found.why_none}."
    else:
        proposals = (
            f"pseudo_labels.csv has {plural(found.num_proposed, 'label')}, {precision:.0%} of which are right at least "
            "for each class, if these images are like the validation images. Nothing uses them by itself: look at "
            f"some, copy the file into {found.data}, and train on both folders."
        )
    body = [
        report.header(f"What to label next: {found.data.name}", f"model: {run_dir.path}", numbers),
        report.section("To label next", report.paragraph(words), images),
        report.section("Proposed labels", report.paragraph(proposals)),
        report.footer(
            "Margin between the first two classes times the distance to the nearest labelled or chosen image."
        ),
    ]
    report.write_page(found.folder / "report.html", title=f"What to label next: {found.data.name}", body=body)
