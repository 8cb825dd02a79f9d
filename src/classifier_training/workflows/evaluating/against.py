"""`evaluate run=A against=B`: two runs on the same images."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.run_dir import write_csv, write_json
from classifier_training.core.types import TRAIN
from classifier_training.data.checking.known_files import FileTable
from classifier_training.evaluation.comparison import compare, equal
from classifier_training.evaluation.groups import Groups
from classifier_training.workflows.evaluating.samples import own_samples

if TYPE_CHECKING:
    from collections.abc import Sequence, Set
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult, SplitTable
    from classifier_training.inference.predictor import Predictor
    from classifier_training.workflows.evaluating.run_model import RunModel

log = logging.getLogger(__name__)

COLUMNS = ("path", "true", "change", "predicted", "confidence", "predicted_against", "confidence_against")


def compare_runs(
    folder: Path,
    result: SplitResult,
    table: SplitTable,
    opened: RunModel,
    against: RunModel,
    *,
    trained: Set[str] = frozenset(),
    csv_safe: bool = False,
) -> str:
    """Have another run predict the same images; write comparison.json and comparison.csv.

    Left out are images that one of the two was trained on, by path or by content, since it would look too good on them,
    those whose label the other does not know, and those that it could not read.

    comparison.json holds schema (1), split, run and against (the files compared), num_images, verdict, gained and lost
    (images that run or against alone classifies correctly), mcnemar {p_value, method} or, where images come in groups,
    sign_flips {p_value, method, groups}, adjusted_p_values of both metrics, accuracy and balanced_accuracy
    {run, against, difference {value, low, high, method}}, classes {name: {support, recall, recall_against, gained,
    lost, p_value, verdict}}, and left_out {trained_on, unknown_labels, unreadable}, in images.

    comparison.csv lists the images whose prediction differs; change is gained, lost, or other where both are wrong.

    Args:
        folder: where to.
        result: predictions of the one run, with the probabilities that it gives.
        table: the samples of the split.
        opened: the one run.
        against: the other.
        trained: those of the images that the one run was trained on.
        csv_safe: whether the table is written so that no cell is a formula to a spreadsheet.

    Returns:
        The verdict, in one sentence.

    Raises:
        UserError: when no image is left to compare on.
    """
    class_names, other_names = opened.predictor.class_names, against.predictor.class_names
    paths = [table.paths[row] for row in result.indices]
    seen = trained | trained_on(against.run_dir, paths)
    known = np.isin(result.targets, [number for number, name in enumerate(class_names) if name in other_names])
    fair = np.array([path not in seen for path in paths])
    rows = np.flatnonzero(known & fair)
    predicted = [
        None if output.logits is None else _best(against.predictor, output.logits)
        for output in against.predictor.raw_outputs([paths[row] for row in rows])
    ]
    is_predicted = np.array([output is not None for output in predicted], dtype=bool)
    left_out = {
        "trained_on": int((~fair).sum()),
        "unknown_labels": int((fair & ~known).sum()),
        "unreadable": int((~is_predicted).sum()),
    }
    rows = rows[is_predicted]
    if not len(rows):
        raise UserError(
            f"against={against.path}: no image is left to compare on; left out: "
            + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in left_out.items()),
            "images whose labels both know and that neither was trained on",
            "name other data: data.root=…",
        )
    if any(left_out.values()):
        log.warning(
            "compared on %d of %d images; left out: %s", len(rows), len(paths),
            enumerate_words(f"{number} {name.replace('_', ' ')}" for name, number in left_out.items() if number),
        )  # fmt: skip
    others, others_confidences = zip(*filter(None, predicted), strict=True)
    true = [class_names[number] for number in result.targets[rows]]
    own = [class_names[number] for number in result.predicted[rows]]
    theirs = [other_names[number] for number in others]
    correct, correct_against = equal(own, true), equal(theirs, true)
    groups = Groups.of([table.groups[index] for index in result.indices[rows]])
    comparison = compare(result.targets[rows], correct, correct_against, class_names, groups)
    titles = [opened.title, against.title]
    # Runs of two days may have been started at the same time of day.
    names = titles if titles[0] != titles[1] else [str(opened.path), str(against.path)]
    verdict = comparison.verdict(*names)
    write_json(
        folder / "comparison.json",
        {
            "schema": 1,
            "split": result.split,
            "run": str(opened.path),
            "against": str(against.path),
            "verdict": verdict,
            **comparison.to_dict(),
            "left_out": left_out,
        },
    )
    confidences = result.confidences[rows]
    change = np.where(correct, "gained", np.where(correct_against, "lost", "other"))
    changed = np.flatnonzero(~equal(own, theirs))
    write_csv(
        folder / "comparison.csv",
        COLUMNS,
        (
            (
                paths[rows[place]],
                true[place],
                change[place],
                own[place],
                f"{confidences[place]:.6f}",
                theirs[place],
                f"{others_confidences[place]:.6f}",
            )
            for place in sorted(changed, key=lambda place: ("gained", "lost", "other").index(change[place]))
        ),
        is_safe=csv_safe,
    )
    return verdict


def _best(predictor: Predictor, logits: NDArray[np.float32]) -> tuple[int, float]:
    """The predicted class of an image, and its calibrated probability."""
    shares = predictor.shares(logits)
    return int(shares.argmax()), float(shares.max())


def trained_on(run_dir: RunDir, paths: Sequence[str], *, moved_to: str | None = None) -> set[str]:
    """Those of the paths that lead to images, or copies of images, that the run was trained on.

    Args:
        run_dir: the run.
        paths: of images.
        moved_to: where the run's images are now, if not where they were.
    """
    if not run_dir.splits.exists():
        log.warning("%s: no splits.csv, so it cannot be told whether it was trained on these images", run_dir.path)
        return set()
    try:
        samples, root = own_samples(run_dir, moved_to=moved_to)
    except UserError as error:
        log.warning("it cannot be told whether %s was trained on these images: %s", run_dir.path, error.came)
        return set()
    trained = {str(root / sample.path) for sample in samples if sample.split == TRAIN}
    found = trained.intersection(paths)
    files = FileTable(None, [*trained.union(paths)])
    sizes, is_trained = files.rows["size"], np.array([path in trained for path in files.paths], dtype=bool)
    asked = np.array([path not in found for path in files.paths], dtype=bool) & ~is_trained
    # Copies have the same size; no other file is opened.
    same = np.intersect1d(sizes[is_trained], sizes[asked])
    for group in files.copies(np.flatnonzero(np.isin(sizes, same))):
        if trained.intersection(group):
            found.update(group)
    return found.intersection(paths)
