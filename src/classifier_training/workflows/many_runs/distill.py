"""`distill`: a small student learns from a finished run, and is compared with itself alone and with its teacher."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from classifier_training.conf.compose import compose
from classifier_training.conf.inherited import data_words
from classifier_training.conf.overrides import word, written_instead
from classifier_training.conf.tuned import without_tuned
from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.metrics import goal_of
from classifier_training.core.register import VERB, Choice, Replaces, SettingsOf, Word, entry, register
from classifier_training.core.run_dir import RunDir
from classifier_training.core.settings import RunText, Trait, TypedPath
from classifier_training.core.types import TRAIN
from classifier_training.data.splitting.manifest import read_manifest
from classifier_training.evaluation.students import StudentScore, TeachingSettings
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.run_model import describe_trained, open_model
from classifier_training.workflows.many_runs.launch.base import Launcher, refuse_elsewhere
from classifier_training.workflows.many_runs.launch.local import LOCAL
from classifier_training.workflows.many_runs.student_report import (
    DistillResult,
    TeacherPredictions,
    report_students,
)
from classifier_training.workflows.training.settings import TrainSettings
from classifier_training.workflows.training.train import TrainResult, train_here

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@register(
    group="verb",
    name="distill",
    examples=(
        "distill latest",
        "distill best model=resnet18 --epochs 20 'alphas=[0.5,0.7]'",
        "distill best pruning=channels pruning.keep=0.5",
    ),
)
def distill(
    *,
    teacher: Annotated[RunText | list[RunText], Word(), Replaces("distillation.*")],
    training: Annotated[tuple[str, ...], SettingsOf("train", "classifier-training train resume=RUN")] = (),
    temperatures: Annotated[Positive | list[Positive], Replaces("distillation.temperature")] = 4.0,
    alphas: Annotated[Share | list[Share], Replaces("distillation.alpha")] = 0.7,
    hint_weights: Annotated[NonNegative | list[NonNegative], Replaces("distillation.hint_weight")] = 0.0,
    seeds: Annotated[Seed | list[Seed], Replaces("seed")] = 0,
    output: Annotated[TypedPath, Trait.PLACE] = "outputs",
    launcher: Annotated[Launcher, Choice("local")] = LOCAL,
) -> DistillResult:
    """Train a small student on a finished run's predictions; compare it with one without teacher and with the teacher.

    The student is model=student and the data the teacher's with the same splits, unless other ones are named; with
    pruning=channels it is the teacher with fewer channels. One run is made of each temperature, alpha, weight of hints
    and seed, and one without a teacher of each seed.

    Args:
        teacher: run folder, latest or best; of several in a list, the mean probabilities are learnt from.
        training: settings of the student's training, as `train` takes them: model=student trainer.max_epochs=20.
        temperatures: divide the logits of teacher and student; one or several.
        alphas: weight of the teacher's predictions in the loss, against the labels; one or several.
        hint_weights: weight of the hints, by which the student's features come near the teacher's; one or several.
        seeds: one or several; the spread over five tells the teacher's part from luck.
        output: folder for the comparison and its runs.
    """
    refuse_elsewhere(launcher)
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
    # All of them before the first run, so that a wrong setting or teacher is an error at once.
    for run_dir in run_dirs:
        describe_trained(run_dir)
    verb = entry("verb", "train")
    for taught in [None, *grid]:
        compose(verb, run_words(words, run_dirs, taught))
    folder = RunDir.create(Path(output).expanduser(), name="distillation").path
    predictions = TeacherPredictions(opened)
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
                result = train_here(TrainSettings(**compose(verb, [*run_words(words, run_dirs, taught), *places])))
            except CheckFailedError as error:
                log.error("distill: %s: %s", title, error)  # noqa: TRY400 - the message is for the user
                failed.append(title)
                continue
            incomplete += [f"{title}: {name}: {reason}" for name, reason in result.ended.failures.items()]
            results.append(result)
            scores.append(_score(result, taught, seed, predictions))
    found = report_students(folder, opened, predictions, scores, results, failed)
    return dataclasses.replace(found, incomplete=incomplete)


def _score(
    result: TrainResult, taught: TeachingSettings | None, seed: int, predictions: TeacherPredictions
) -> StudentScore:
    info, _ = describe_trained(result.run_dir)
    best = info.training_info["best_metric"]
    scored = result.scored
    theirs = predictions(result.table, info.class_names).argmax(axis=1)[scored.indices]
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


def student_words(teachers: Sequence[RunDir], typed: Sequence[str]) -> list[str]:
    """Complete the words of the student's training with what it has from its teacher.

    Args:
        teachers: the runs; the data and splits are the first one's.
        typed: settings of train.

    Raises:
        UserError: for a setting that the comparison decides.
    """
    keys = {text.partition("=")[0].lstrip("+~") for text in typed}
    for key in keys:
        instead = written_instead(entry(VERB, "distill"), key)
        if instead is not None:
            raise UserError(f"{key}= has no place here: distill decides it for each run", "other settings", instead)
    typed = without_tuned(typed)
    if "pruning" in keys:
        # The student is what remains of the first teacher; so it keeps data, splits and preprocessing, too.
        return [word("init_from", teachers[0].path.absolute()), *typed]
    words = [] if keys & {"model", "experiment"} else ["model=student"]
    if keys & {"data", "data.root"}:
        log.warning("data is named: the teacher may have been trained on images that the student is tested on")
        return [*words, *typed]
    _compare_splits(teachers)
    return [*words, *data_words(teachers[0]), *typed]


def run_words(words: Sequence[str], teachers: Sequence[RunDir], taught: TeachingSettings | None) -> list[str]:
    """Add to a student's words how it is taught; nothing for the student alone."""
    if taught is None:
        return list(words)
    named = ",".join(_quoted(str(run_dir.path.absolute())) for run_dir in teachers)
    return [
        *words,
        "distillation=soft_labels",
        f"distillation.teacher=[{named}]",
        *(f"distillation.{name}={value!r}" for name, value in taught._asdict().items()),
    ]


def _quoted(value: object) -> str:
    """Write a value in the grammar of the configuration."""
    return word("key", value).partition("=")[2]


def _compare_splits(teachers: Sequence[RunDir]) -> None:
    """Say it when one of several teachers was trained on images that the first one held out."""
    held_out = {sample.path for sample in read_manifest(teachers[0].splits) if sample.split != TRAIN}
    for other in teachers[1:]:
        trained = {sample.path for sample in read_manifest(other.splits) if sample.split == TRAIN}
        if number := len(held_out & trained):
            log.warning("%s was trained on %d of the images that the student is evaluated on", other.path, number)
