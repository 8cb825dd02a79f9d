"""The teachers of a run: found, checked against the student, and run once where their outputs can be kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.conf.resume import saved_values
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.register import TYPE_KEY
from classifier_training.core.run_dir import RunDir, sha256
from classifier_training.core.runtime import cache_dir
from classifier_training.core.types import TRAIN
from classifier_training.data.store.shards import describe_files
from classifier_training.registry.runs import find_run
from classifier_training.workflows.evaluating.run_model import describe_trained, load_trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.callbacks.observer import RunContext
    from classifier_training.export.bundle import BundleInfo
    from classifier_training.training.distillation_loss import DistillationLoss, Teacher
    from classifier_training.training.losses import Distillation
    from classifier_training.training.settings import TrainerSettings
    from classifier_training.workflows.training.job import TrainingJob

log = logging.getLogger(__name__)

TEACHER, HINTS = "distillation.teacher", "distillation.hint_weight"


def name_teachers(settings: Distillation, *, output: str) -> Distillation:
    """Put the folders of the teachers in place of words and relative paths: the run can be resumed from anywhere.

    Raises:
        UserError: when there is no such run.
    """
    found = [find_run(name, output=output, setting=TEACHER).path.absolute() for name in settings.teachers]
    return dataclasses.replace(settings, teacher=[str(path) for path in found])


def uncompiled(settings: Distillation, trainer: TrainerSettings) -> TrainerSettings:
    """Leave the network uncompiled where hints are given: a compiled one does not show its features.

    Raises:
        UserError: when it is asked to be compiled.
    """
    if not settings.hint_weight:
        return trainer
    if trainer.compile is True:
        raise UserError(
            f"{HINTS}={settings.hint_weight:g} and trainer.compile=true: a compiled network does not show its features",
            "one of them",
            "trainer.compile=false",
        )
    return dataclasses.replace(trainer, compile=False)


def make_distillation_loss(settings: Distillation, job: TrainingJob) -> DistillationLoss:
    """Load the teachers and make what adds their predictions to the loss.

    Args:
        settings: with the folders of the teachers.
        job: of the student.

    Raises:
        UserError: when a teacher is missing or knows other classes, or hints cannot be given.
    """
    from classifier_training.training.distillation_loss import (
        DistillationLoss,
        FeatureHints,
        Teacher,
        Teachers,
        store_outputs,
    )
    from classifier_training.training.linear_head import count_features

    run, datamodule = job.run, job.datamodule
    gives_hints = settings.hint_weight > 0
    run_dirs = [RunDir(Path(name)) for name in settings.teachers]
    size = run.preprocessing.size
    hints = None
    if gives_hints:
        head, num_own = count_features(run.model.network, image_size=size[0], setting=f"{HINTS}, of the student")
    teachers: list[Teacher] = []
    num_taught = 0
    for run_dir in run_dirs:
        network, info = load_trained(run_dir)
        order = match_classes(run.class_names, info.class_names, teacher=run_dir.path)
        _tell(run_dir, info, run)
        if gives_hints:
            setting = f"{HINTS}, of {run_dir.path}"
            num_taught += count_features(network, image_size=info.preprocessing.size[0], setting=setting)[1]
        teachers.append(Teacher(network, info.preprocessing, order))
    if gives_hints:
        hints = FeatureHints(head, num_own, num_taught, seed=datamodule.seed)
    balanced = [_is_balanced(run_dir) for run_dir in run_dirs]
    asked = Teachers(teachers, gives_features=gives_hints)
    if not settings.keep_outputs or datamodule.augmentation.changes_images:
        why = "augmentation changes the images" if settings.keep_outputs else "keep_outputs=false"
        log.info("teacher: run at every step, since %s", why)
        return DistillationLoss(settings, asked, balanced, hints)
    table = run.tables[TRAIN]
    outputs = store_outputs(
        _outputs_path(run, run_dirs, gives_features=gives_hints),
        asked,
        datamodule.evaluation_loader(TRAIN),
        num_images=len(table),
        num_teachers=len(teachers),
        num_classes=len(run.class_names),
        device=job.device.accelerator,
    )
    return DistillationLoss(settings, outputs, balanced, hints)


def match_classes(own: Sequence[str], theirs: Sequence[str], *, teacher: Path) -> list[int]:
    """Return the places of the student's classes among the teacher's, int [K].

    Raises:
        UserError: when one knows a class that the other does not.
    """
    missing, strange = sorted(set(own) - set(theirs)), sorted(set(theirs) - set(own))
    if missing or strange:
        parts = [
            f"{words} {enumerate_words(map(repr, names))}"
            for words, names in (("it does not know", missing), ("it alone knows", strange))
            if names
        ]
        raise UserError(
            f"{TEACHER}={teacher}: the teacher has other classes than the student: {'; '.join(parts)}",
            "a teacher and a student with classes of the same names",
            "train the teacher on this data, or leave out data= to train the student on the teacher's",
        )
    return [theirs.index(name) for name in own]


def _is_balanced(run_dir: RunDir) -> bool:
    """Whether a run corrected the imbalance of its classes, which all do but those with imbalance=none."""
    node = saved_values(run_dir.config).get("imbalance")
    return not isinstance(node, dict) or node.get(TYPE_KEY) != "none"


def _tell(run_dir: RunDir, info: BundleInfo, run: RunContext) -> None:
    """Say who teaches, and what it is shown that it does not know."""
    known, shown = info.preprocessing, run.preprocessing
    words = f"teacher: {info.architecture} of {run_dir.path}"
    if known.size != shown.size:
        words += f"; it was trained at {known.size[0]} px and sees the student's {shown.size[0]} px brought to that"
    log.info("%s", words)
    if known.policy != shown.policy:
        log.warning(
            "the teacher was trained with transforms.policy=%s, and sees images as the student does, by %s",
            known.policy, shown.policy,
        )  # fmt: skip


def _outputs_path(run: RunContext, run_dirs: Sequence[RunDir], *, gives_features: bool) -> Path:
    """Where the outputs of these teachers for these images are kept: in the cache, by what they follow from."""
    digest = hashlib.blake2b(digest_size=16)
    weights = [sha256(describe_trained(run_dir)[1]) for run_dir in run_dirs]
    known = [weights, run.preprocessing.to_dict(), list(run.class_names), gives_features]
    digest.update(json.dumps(known).encode())
    files = describe_files(run.tables[TRAIN].paths)
    digest.update(files.tobytes())
    if (files["size"] < 0).any():
        # Of a server that tells no versions: what is kept is for this run alone.
        digest.update(os.urandom(16))
    return cache_dir() / "teachers" / f"{digest.hexdigest()}.npy"
