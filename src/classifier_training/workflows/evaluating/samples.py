"""The labelled images of a finished run, or of other data, numbered as its model numbers classes."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.conf.resume import saved_values
from classifier_training.conf.validate import build_node
from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.storage.places import is_remote, path_of
from classifier_training.core.types import TRAIN, SplitTable
from classifier_training.data.index import split_table
from classifier_training.data.replay import roots_of
from classifier_training.data.splitting.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.formats.source import DataSource
    from classifier_training.data.index import SampleIndex
    from classifier_training.data.samples import Sample

log = logging.getLogger(__name__)


def own_source(run_dir: RunDir) -> DataSource:
    """The data that the run was trained on, as it was configured."""
    source: DataSource = build_node("data", saved_values(run_dir.config).get("data"), "data")
    return source


def own_samples(
    run_dir: RunDir, *, moved_to: str | None = None, setting: str = "data.root"
) -> tuple[Sequence[Sample], Path]:
    """The samples that the run was trained, validated and tested on, and the folder that their paths begin from.

    Args:
        run_dir: the run.
        moved_to: where the images are now, if not where they were.
        setting: by which the user says so.

    Raises:
        UserError: when the images are not to be found.
    """
    if moved_to is not None:
        root = path_of(moved_to)
        if not root.is_dir():
            raise UserError(
                f"{setting}={moved_to}: no such folder",
                "the folder that the run's images are in now",
                f"{setting}=/my/images",
            )
        return read_manifest(run_dir.splits), root.resolve()
    source = own_source(run_dir)
    gone = [one for one in roots_of(source) if not is_remote(one) and not Path(one).expanduser().exists()]
    if gone:
        raise UserError(
            f"{run_dir.path}: its images are not in {gone[0]} any more",
            "the images that the run was trained on",
            f"name the folder that they are in now: {setting}=/my/images",
        )
    return read_manifest(run_dir.splits), source.read().root


def train_counts(run_dir: RunDir) -> dict[str, int]:
    """Count a run's training images by label; empty where the folder does not say which they were."""
    samples = read_manifest(run_dir.splits) if run_dir.splits.exists() else []
    return dict(Counter(sample.label for sample in samples if sample.split == TRAIN))


def with_metadata(rows: Iterable[Sample], index: SampleIndex) -> list[Sample]:
    """Give the samples of a manifest the metadata that the data has for them; a label may have been corrected."""
    found = {(sample.path, sample.label): sample.metadata for sample in index.samples}
    only = {sample.path: sample.metadata for sample in index.samples}
    return [replace(sample, metadata=found.get((sample.path, sample.label), only.get(sample.path))) for sample in rows]


def known_samples(rows: Iterable[Sample], split: str, class_names: Sequence[str]) -> list[Sample]:
    """The samples of a split whose labels the model knows, in their order: those of `tabulate`."""
    names = set(class_names)
    return [sample for sample in rows if sample.split == split and sample.label in names]


def unknown_labels(rows: Iterable[Sample], split: str, class_names: Sequence[str]) -> dict[str, int]:
    """The images of a split whose label the model does not know, by label."""
    names = set(class_names)
    counts = Counter(sample.label for sample in rows if sample.split == split and sample.label not in names)
    return dict(sorted(counts.items()))


def tabulate(rows: Sequence[Sample], root: Path, split: str, class_names: Sequence[str]) -> SplitTable:
    """Number the labels as the model does; those that it does not know are named and left out."""
    unknown = unknown_labels(rows, split, class_names)
    if unknown:
        log.warning(
            "%d images have labels that the model does not know; they are left out: %s",
            sum(unknown.values()), enumerate_words(map(repr, unknown)),
        )  # fmt: skip
    known = known_samples(rows, split, class_names)
    if not known:
        raise UserError(
            f"{root}: no image has a label that the model knows",
            f"labels out of {enumerate_words(class_names)}",
            "choose the data that the model is for",
        )
    return split_table(split or "all", root, known, class_names)
