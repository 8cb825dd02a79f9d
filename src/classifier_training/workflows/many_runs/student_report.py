"""The report of `distill`: files, plots and a conclusion."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.run_dir import write_csv, write_json, write_text
from classifier_training.core.types import softmax
from classifier_training.evaluation.comparison import compare
from classifier_training.evaluation.drawing import Drawer
from classifier_training.evaluation.figures.leaderboard import TradeOffFigure
from classifier_training.evaluation.figures.training import DistillationFigure
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.slices import slice_metrics
from classifier_training.evaluation.students import (
    Evidence,
    Served,
    Skill,
    StudentScore,
    Summary,
    choose,
    conclude,
    summarize,
)
from classifier_training.export.session import Latency, measure_side_by_side
from classifier_training.workflows.evaluating.run_model import describe_trained, open_model
from classifier_training.workflows.training.teaching import match_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.types import SplitTable
    from classifier_training.workflows.evaluating.run_model import RunModel
    from classifier_training.workflows.training.train import TrainResult

log = logging.getLogger(__name__)

COLUMNS = (
    "run", "temperature", "alpha", "hint_weight", "seed", "validation", "accuracy", "balanced_accuracy", "agreement",
)  # fmt: skip


@dataclass(frozen=True)
class DistillResult:
    """Result of `distill`.

    Args:
        folder: of the files.
        summaries: the student alone, then each distillation setting, over seeds.
        best: the setting with the highest validation score.
        teacher: accuracy, size and latency of the teacher.
        student: the same of the student.
        words: the conclusion, one paragraph.
        failed: titles of failed runs.
        incomplete: steps after training that failed, such as a withheld file; one line each.
    """

    folder: Path
    summaries: Sequence[Summary]
    best: Summary
    teacher: Served
    student: Served
    words: str
    failed: Sequence[str]
    incomplete: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """1 where a run failed, or lacks something."""
        return int(bool(self.failed or self.incomplete))

    def __str__(self) -> str:
        lines = ["", f"{'student':<44} seeds  accuracy         gain             agreement  lead kept"]
        for item in self.summaries:
            title = "alone" if item.taught is None else str(item.taught)
            gain = "" if item.gain is None else f"{100 * item.gain:+6.2f}{_spread(item.gain_spread)}"
            kept = "" if item.gain_kept is None else f"{item.gain_kept:.0%}"
            lines.append(
                f"{title:<44} {item.num_runs:>5}  {100 * item.accuracy:6.2f}{_spread(item.accuracy_spread)}  "
                f"{gain:<15}  {item.agreement:>9.2%}  {kept:>9}"
            )
        lines += [f"{'teacher':<44} {'':>5}  {100 * self.teacher.accuracy:6.2f}", "", self.words]
        lines += [f"failed: {title}" for title in self.failed]
        lines += [f"incomplete: {line}" for line in self.incomplete]
        return "\n".join([*lines, f"written to {self.folder}"])


class TeacherPredictions:
    """Predictions of the teachers for held-out images, computed once for each set of images.

    Args:
        opened: the teachers.
    """

    def __init__(self, opened: Sequence[RunModel]) -> None:
        self._opened = opened
        self._known: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def __call__(self, table: SplitTable, class_names: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean probabilities of the teachers for the images of a split, float32 [N, K].

        Raises:
            UserError: when a teacher knows other classes, or cannot read an image.
        """
        paths = tuple(table.paths)
        if paths not in self._known:
            self._known[paths] = np.mean(
                [_probabilities(teacher, paths, class_names) for teacher in self._opened], axis=0, dtype=np.float32
            )
        return self._known[paths]


def report_students(
    folder: Path,
    opened: Sequence[RunModel],
    predictions: TeacherPredictions,
    scores: Sequence[StudentScore],
    results: Sequence[TrainResult],
    failed: Sequence[str],
) -> DistillResult:
    """Write distillation.json, .csv, .md and .png, and trade_off.png.

    distillation.json holds schema (1), split, num_images, teacher and student {name, accuracy, size_mb, latency_ms,
    runs, runtime, latency {median_ms, quartiles_ms, num_runs, num_threads}}, students (summaries: taught {temperature,
    alpha, hint_weight} or null, num_runs, validation, accuracy, accuracy_spread, balanced_accuracy, agreement, gain,
    gain_spread, gain_low, gain_high, gain_kept), best (its taught), runs (one a run), comparison (of the best with the
    student alone, see evaluation/comparison.py), against_teacher (of the best with the teacher), words and failed.

    Args:
        folder: where to.
        opened: the teachers.
        predictions: of the teachers.
        scores: of the runs.
        results: of the same runs.
        failed: titles of failed runs.

    Raises:
        CheckFailedError: when no student with a teacher, or none without, has finished.
    """
    by_run = dict(zip((score.run for score in scores), results, strict=True))
    alone_seeds = {score.seed for score in scores if score.taught is None}
    scores = [score for score in scores if score.seed in alone_seeds]
    taught = [score for score in scores if score.taught is not None]
    if not taught:
        raise CheckFailedError(
            f"nothing to compare: {', '.join(failed)} failed", "a student with a teacher and one without", "see above"
        )
    reference = by_run[scores[0].run]
    truth = reference.scored.targets
    theirs = predictions(reference.table, _names(reference)).argmax(axis=1)[reference.scored.indices]
    accuracy = float((theirs == truth).mean())
    summaries = summarize(scores, teacher_accuracy=accuracy)
    alone, best = summaries[0], choose(summaries)
    one = next(score for score in taught if score.taught == best.taught)
    pair = next(score for score in scores if score.taught is None and score.seed == one.seed)
    student = open_model(one.run)
    if student.predictor.device != opened[0].predictor.device:
        log.warning(
            "latency: the teacher runs on %s, the student on %s; sizes and times are not comparable",
            opened[0].predictor.device, student.predictor.device,
        )  # fmt: skip
    latencies = measure_side_by_side([_forward(list(opened)), _forward([student])])
    teacher_name = " + ".join(dict.fromkeys(_architecture(item) for item in opened))
    served = [
        Served(name=teacher_name, accuracy=accuracy, size_mb=_size_mb(opened), latency_ms=latencies[0].median_ms),
        Served(
            name=_architecture(student),
            accuracy=best.accuracy,
            size_mb=_size_mb([student]),
            latency_ms=latencies[1].median_ms,
        ),
    ]
    scored, scored_alone = by_run[one.run].scored, by_run[pair.run].scored
    class_names = _names(reference)
    groups = Groups.of([reference.table.groups[row] for row in reference.scored.indices])
    correct = scored.predicted == scored.targets
    evidence = Evidence(
        num_images=len(truth),
        teacher=_skill(truth, theirs, len(class_names), groups),
        student=_skill(truth, scored.predicted, len(class_names), groups),
        gain=compare(truth, correct, scored_alone.predicted == scored_alone.targets, class_names, groups),
        lead=compare(truth, correct, theirs == truth, class_names, groups),
    )
    words = conclude(alone, best, served[0], served[1], evidence)
    runs = [{**asdict(score), "taught": score.taught and score.taught._asdict()} for score in scores]
    write_json(
        folder / "distillation.json",
        {
            "schema": 1,
            "split": reference.scored.split,
            "num_images": len(truth),
            "teacher": _cost(served[0], latencies[0], opened),
            "student": _cost(served[1], latencies[1], [student]),
            "students": [item.to_dict() for item in summaries],
            "best": best.to_dict()["taught"],
            "runs": runs,
            "comparison": evidence.gain.to_dict(),
            "against_teacher": evidence.lead.to_dict(),
            "words": words,
            "failed": list(failed),
        },
    )
    write_csv(folder / "distillation.csv", COLUMNS, map(_row, scores))
    write_text(folder / "distillation.md", f"# Distillation\n\n{words}\n")
    without = replace(served[1], name=f"{served[1].name} alone", accuracy=alone.accuracy)
    with Drawer() as drawer:
        drawer.submit(DistillationFigure(scores=tuple(scores), teacher_accuracy=accuracy), folder / "distillation.png")
        drawer.submit(
            TradeOffFigure(
                names=tuple(item.name for item in (*served, without)),
                x=tuple(item.latency_ms for item in (*served, without)),
                y=tuple(item.accuracy for item in (*served, without)),
                log_x=True,
                title="Accuracy against latency",
                x_label="milliseconds an image",
                y_label="accuracy",
            ),
            folder / "trade_off.png",
        )
    return DistillResult(folder, summaries, best, served[0], served[1], words, failed)


def _skill(targets: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int, groups: Groups | None) -> Skill:
    (found,) = slice_metrics("all", [""] * len(targets), targets, predicted, num_classes=num_classes, groups=groups)
    support = np.bincount(targets)
    return Skill(
        accuracy=found.accuracy,
        balanced_accuracy=found.balanced_accuracy,
        most_frequent=float(support.max() / len(targets)),
        num_classes=int((support > 0).sum()),
    )


def _probabilities(teacher: RunModel, paths: Sequence[str], class_names: Sequence[str]) -> NDArray[np.float32]:
    order = match_classes(class_names, teacher.predictor.class_names, teacher=teacher.run_dir.path)
    rows = []
    for output in teacher.predictor.raw_outputs(paths):
        if output.logits is None:
            raise UnreadableImageError(output.path, str(output.error))
        rows.append(softmax(output.logits)[order])
    return np.stack(rows)


def _names(result: TrainResult) -> Sequence[str]:
    return describe_trained(result.run_dir)[0].class_names


def _forward(models: Sequence[RunModel]) -> Callable[[], object]:
    inputs = [np.zeros((1, 3, *model.predictor.preprocessing.size), dtype=np.float32) for model in models]
    return lambda: [model.predictor.run(pixels) for model, pixels in zip(models, inputs, strict=True)]


def _size_mb(models: Sequence[RunModel]) -> float:
    return sum(model.path.stat().st_size for model in models) / 1e6


def _architecture(model: RunModel) -> str:
    return describe_trained(model.run_dir)[0].architecture


def _cost(served: Served, latency: Latency, models: Sequence[RunModel]) -> dict[str, object]:
    runs = [str(model.run_dir.path) for model in models]
    return {**asdict(served), "runs": runs, "runtime": models[0].predictor.device, "latency": asdict(latency)}


def _row(score: StudentScore) -> tuple[object, ...]:
    taught = ("", "", "") if score.taught is None else score.taught
    metrics = (score.validation, score.accuracy, score.balanced_accuracy, score.agreement)
    return (score.run, *taught, score.seed, *(f"{value:.6f}" for value in metrics))


def _spread(spread: float | None) -> str:
    return "        " if spread is None else f" ± {100 * spread:.2f} "
