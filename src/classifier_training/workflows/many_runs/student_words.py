"""The settings of a student's training, in words: what was typed, and its teacher's data with the same splits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from classifier_training.conf.overrides import word, written_instead
from classifier_training.conf.resume import saved_values
from classifier_training.core.errors import UserError
from classifier_training.core.register import TYPE_KEY, VERB, entry
from classifier_training.core.settings import Trait
from classifier_training.core.types import TRAIN
from classifier_training.data.splitting.splits import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.evaluation.students import TeachingSettings

log = logging.getLogger(__name__)


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
    words = [] if keys & {"model", "experiment"} else ["model=student"]
    if keys & {"data", "data.root"}:
        log.warning("data is named: the teacher may have been trained on images that the student is tested on")
        return [*words, *typed]
    _compare_splits(teachers)
    return [*words, *_data_words(teachers[0]), *typed]


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


def _data_words(teacher: RunDir) -> Iterator[str]:
    """What the teacher was trained on, with its splits."""
    node = saved_values(teacher.config).get("data")
    if not isinstance(node, dict) or not isinstance(node.get(TYPE_KEY), str):
        raise UserError(
            f"{teacher.config}: does not say what data the teacher was trained on",
            "the config.yaml that the run wrote",
            "name the data: data.root=/my/images",
        )
    yield f"data={node[TYPE_KEY]}"
    train = entry(VERB, "train")
    # The teacher's splits.csv says which images are held out.
    kept = {name: node[name] for name in node if name != TYPE_KEY and Trait.SPLIT not in train.traits(f"data.{name}")}
    yield from _words("data", kept)
    yield word("data.splits", teacher.splits.absolute())


def _words(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _words(f"{prefix}.{name}", value)
        elif isinstance(value, list):
            yield f"{prefix}.{name}=[{','.join(map(_quoted, value))}]"
        elif value is not None:
            yield word(f"{prefix}.{name}", value)


def _quoted(value: object) -> str:
    """Write a value in the grammar of the configuration."""
    return word("key", value).partition("=")[2]


def _compare_splits(teachers: Sequence[RunDir]) -> None:
    """Say it when one of several teachers was trained on images that the first one held out."""
    held_out = {sample.path for sample in read_manifest(teachers[0].splits) if sample.split != TRAIN}
    for other in teachers[1:]:
        trained = {sample.path for sample in read_manifest(other.splits) if sample.split == TRAIN}
        if number := len(held_out & trained):
            log.warning("%s was trained on %d of the images that the student is held against", other.path, number)
