"""What `train` tells a person: what it found and chose, and what came of it. All else stands in train.log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import enumerate_words, plural, shown
from classifier_training.core.files import size_bytes
from classifier_training.core.run_reader import read_rows
from classifier_training.core.runtime import command, setting
from classifier_training.evaluation.verdict import Baseline
from classifier_training.training.transfer import LinearProbe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.core.types import SplitResult
    from classifier_training.evaluation.corrections_effect import CorrectionsEffect
    from classifier_training.evaluation.measures import Measures
    from classifier_training.export.bundle import Calibration
    from classifier_training.export.job import ExportedFile
    from classifier_training.workflows.training.job import TrainingJob

MAX_NAMED = 12
"""Classes whose counts are listed."""

NUM_MISTAKES = 3

PRECISIONS = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}


def class_words(class_names: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Say how many training images each class has; of many classes, the largest and the smallest.

    Args:
        class_names: [K].
        counts: training images of each class, int64 [K].
    """
    if len(class_names) <= MAX_NAMED:
        listed = ", ".join(f"{shown(name)} {count:,}" for name, count in zip(class_names, counts, strict=True))
        return f"classes: {listed} training images"
    most, fewest = int(counts.argmax()), int(counts.argmin())
    return (
        f"classes: from {counts[fewest]:,} ({shown(class_names[fewest])}) to {counts[most]:,} "
        f"({shown(class_names[most])}) training images, {np.median(counts):,.0f} in the median"
    )


def training_words(job: TrainingJob, *, num_steps: int) -> str:
    """Say how long a run trains, in what batches, where and how precisely.

    Args:
        job: with what was left to auto decided, but a plan for a time.
        num_steps: of the optimizer in an epoch.
    """
    settings, device, trainer = job.settings, job.device, job.trainer
    if isinstance(settings.transfer, LinearProbe):
        length = "the last layer alone, fitted at once"
    else:
        is_open = bool(settings.time or trainer.max_time or settings.callbacks.get("early_stopping"))
        epochs = "1 epoch" if trainer.max_epochs == 1 else f"{'up to ' if is_open else ''}{trainer.max_epochs} epochs"
        length = f"{epochs} of {plural(num_steps, 'step')}, {job.datamodule.batch_size} images in a batch"
    where = device.words.removesuffix(f", {device.precision} precision")
    return f"training: {length}; {where}, {PRECISIONS.get(device.precision, device.precision)}"


def file_words(files: Sequence[ExportedFile], calibration: Calibration | None) -> str:
    """Say in one line what was exported and how it compares with PyTorch.

    Args:
        files: that were written and passed their checks.
        calibration: of the probabilities.
    """
    names = enumerate_words(file.path.name for file in files)
    compared = [file.parity for file in files if file.parity is not None]
    words = f"exported: {names}"
    if compared:
        agreement = min(compared, key=lambda parity: parity.top1_agreement)
        number = round(agreement.top1_agreement * agreement.num_images)
        agree = "agree" if len(files) > 1 else "agrees"
        words += (
            f", which {agree} with PyTorch on {number} of {agreement.num_images} images "
            f"(tolerance {max(parity.tolerance for parity in compared):g})"
        )
    if calibration is not None and calibration.choice.reason:
        words += f"; confidence is not calibrated: {calibration.choice.reason}"
    return words


def majority_words(class_names: Sequence[str], train_counts: NDArray[np.int64], measures: Measures) -> str:
    """Say what always predicting the most frequent class would score, which any result is to be compared with.

    Args:
        class_names: [K].
        train_counts: training images of each class, int64 [K].
        measures: of the scored split.
    """
    found = Baseline.of(measures, train_counts.tolist())
    return (
        f"for comparison, always predicting the most frequent class ({shown(class_names[found.label])}): balanced "
        f"accuracy {found.balanced_accuracy:.4f}, top-1 accuracy {found.accuracy:.4f}"
    )


def mistake_words(run_dir: RunDir, scored: SplitResult) -> list[str]:
    """Name the mistakes with the highest loss, which are worth a look: they are often wrong labels.

    Args:
        run_dir: with evaluation/errors.csv, the worst first.
        scored: the predictions that it is of.
    """
    number = int((scored.predicted != scored.targets).sum())
    try:
        worst = read_rows(run_dir.errors, first=NUM_MISTAKES)
    except OSError:
        # It could not be written, which was said.
        worst = []
    if not worst:
        return [] if number else ["no mistakes"]
    which = f"the {len(worst)} with the highest loss" if number > len(worst) else "by loss"
    head = f"{plural(number, 'mistake')} of {len(scored.targets):,}, all in {run_dir.errors}; {which}:"
    return [
        head,
        *(
            f"  {row['path']}  is {shown(row['true'])}, predicted {shown(row['predicted'])} "
            f"({float(row['confidence']):.0%})"
            for row in worst
        ),
    ]


def effect_words(effect: CorrectionsEffect | None, before: str | None) -> list[str]:
    """Say what a run gained on the one that it started from, and what that does not tell.

    Args:
        effect: of the two; None where they were not scored on the same images.
        before: folder of the run before.
    """
    if effect is None:
        return []
    left = [f"left out: {words}"] if (words := effect.left_out_words) else []
    return [f"before and after ({before}):", *(f"  {line}" for line in [*effect.words, *left, *effect.cautions])]


def folder_words(run_dir: RunDir) -> list[str]:
    """Say where a finished run is, how large it is, and which of its files predict needs."""
    needed = (run_dir.onnx, run_dir.model_info, run_dir.labels_mapping)
    kept = [path for path in (run_dir.last_checkpoint, run_dir.probe_checkpoint) if path.exists()]
    names = " and ".join(path.name for path in kept)
    longer = (
        f"; {sum(map(size_bytes, kept)) / 1e6:,.1f} MB of it are {names}, needed only to train longer" if kept else ""
    )
    lines = [
        f"run folder: {run_dir.path}   ({size_bytes(run_dir.path) / 1e6:,.1f} MB{longer})",
        f"report: {run_dir.report}",
    ]
    if all(path.exists() for path in needed):
        names = ", ".join(path.name for path in needed)
        lines.append(f"to share: {names} ({sum(map(size_bytes, needed)) / 1e6:,.1f} MB) are all that predict needs")
    return lines


def next_words(run_dir: RunDir, image: str) -> list[str]:
    """Return commands to type next.

    Args:
        run_dir: the finished run.
        image: path of one that can be predicted.
    """
    if not run_dir.model_info.exists():
        return ["(its model was not exported: callbacks.onnx_export is switched off)"]
    run = setting("run", run_dir.path)
    return ["", "next:", f"  {command('evaluate')} {run}", f"  {command('predict')} {run} {setting('source', image)}"]
