"""`distill`: a small student learns from a finished run, and is compared with itself alone and with its teacher."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from classifier_training.conf.compose import compose
from classifier_training.conf.typed import word
from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.metrics import goal_of
from classifier_training.core.register import PassedOn, entry, register
from classifier_training.core.run_dir import RunDir
from classifier_training.evaluation.students import StudentScore, TeachingSettings
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.opened import open_model
from classifier_training.workflows.evaluating.trained import describe_trained
from classifier_training.workflows.many_runs.student_report import DistillResult, TeacherAnswers, report_students
from classifier_training.workflows.many_runs.student_words import run_words, student_words
from classifier_training.workflows.training.train import TrainResult, train

log = logging.getLogger(__name__)

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@register(group="verb", name="distill")
def distill(
    *,
    teacher: str | list[str],
    training: Annotated[tuple[str, ...], PassedOn("train")] = (),
    temperatures: Positive | list[Positive] = 4.0,
    alphas: Share | list[Share] = 0.7,
    hint_weights: NonNegative | list[NonNegative] = 0.0,
    seeds: Seed | list[Seed] = 0,
    output: str = "outputs",
) -> DistillResult:
    """Train a small student on a finished run's answers; compare it with itself alone and with its teacher.

    The student is model=student and the data the teacher's with the same splits, unless other ones are named. One run
    is made of each temperature, alpha, weight of hints and seed, and one without a teacher of each seed.

    Args:
        teacher: run folder, latest or best; of several in a list, the mean probabilities are learnt from.
        training: settings of the student's training, as `train` takes them: model=student trainer.max_epochs=20.
        temperatures: what the logits of teacher and student are divided by; one or several.
        alphas: share of the teacher's answers in the loss, against the labels; one or several.
        hint_weights: weight of the hints, by which the student's features come near the teacher's; one or several.
        seeds: one or several; the spread over five tells the teacher's part from luck.
        output: folder for the comparison and its runs.
    """
    named = [teacher] if isinstance(teacher, str) else teacher
    if not named:
        raise UserError("teacher=[]: no teacher", "a finished run", "teacher=RUN")
    run_dirs = [find_run(name, output=output, setting="teacher") for name in named]
    grid = [
        TeachingSettings(*map(float, values))
        for values in itertools.product(_several(temperatures), _several(alphas), _several(hint_weights))
    ]
    words = student_words(run_dirs, training)
    opened = [open_model(str(run_dir.path), setting="teacher") for run_dir in run_dirs]
    # All at once, so that a wrong word is told before the first run.
    for taught in [None, *grid]:
        compose(entry("verb", "train"), run_words(words, run_dirs, taught))
    folder = RunDir.create(Path(output).expanduser(), name="distillation").path
    answers = TeacherAnswers(opened)
    scores: list[StudentScore] = []
    results: list[TrainResult] = []
    failed: list[str] = []
    incomplete: list[str] = []
    for seed in _several(seeds):
        for taught in [None, *grid]:
            title = f"{'alone' if taught is None else taught}, seed {seed}"
            log.info("distill: the student, %s", title)
            own = {"seed": seed, "output": folder, "name": "alone" if taught is None else "taught"}
            places = [word(key, value) for key, value in own.items()]
            try:
                result = train(**compose(entry("verb", "train"), [*run_words(words, run_dirs, taught), *places]))
            except CheckFailedError as error:
                log.error("distill: %s: %s", title, error)  # noqa: TRY400 - the message is for the user
                failed.append(title)
                continue
            incomplete += [f"{title}: {name}: {reason}" for name, reason in result.ended.failures.items()]
            results.append(result)
            scores.append(_score(result, taught, seed, answers))
    found = report_students(folder, opened, answers, scores, results, failed)
    return dataclasses.replace(found, incomplete=incomplete)


def _score(result: TrainResult, taught: TeachingSettings | None, seed: int, answers: TeacherAnswers) -> StudentScore:
    info, _ = describe_trained(result.run_dir)
    best = info.training_info["best_metric"]
    scored = result.scored
    theirs = answers(result.table, info.class_names).argmax(axis=1)[scored.indices]
    return StudentScore(
        run=str(result.run_dir.path),
        taught=taught,
        seed=seed,
        validation=best["value"] if goal_of(best["name"]) == "max" else -best["value"],
        accuracy=scored.metrics["acc_top1"],
        balanced_accuracy=scored.metrics["balanced_accuracy"],
        agreement=float((scored.predicted == theirs).mean()),
    )


def _several(values: Any) -> list[Any]:
    return list(dict.fromkeys(values)) if isinstance(values, list) else [values]
