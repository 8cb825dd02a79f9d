"""What `train` learns from: the data, checked, and how its unbalanced classes are met."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.conf.recipes import RECIPE, model_words, recipe_words
from classifier_training.core.errors import enumerate_words, plural, shown
from classifier_training.core.types import TRAIN, VAL
from classifier_training.data.checking.preflight import preflight
from classifier_training.data.checking.statistics import imbalance_ratio
from classifier_training.data.corrections import saved_corrections
from classifier_training.data.image_settings import check_depth
from classifier_training.data.load import load_data
from classifier_training.data.splitting.splits import read_manifest
from classifier_training.evaluation.metrics import check_monitor
from classifier_training.models.shallow import ShallowModel
from classifier_training.training.imbalance import correct_imbalance
from classifier_training.workflows.evaluating.corrections_effect import new_words
from classifier_training.workflows.training.screen import class_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.load import LoadedData
    from classifier_training.training.imbalance import Correction
    from classifier_training.workflows.training.start import Begun

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a run learns from.

    Args:
        loaded: the data, split.
        correction: how its unbalanced classes are met.
        checks: what spoils runs, as far as it was found; a line each.
    """

    loaded: LoadedData
    correction: Correction
    checks: list[str]


def read_inputs(begun: Begun) -> Inputs:
    """Read and split the data, choose the correction of its imbalance, and say what was found.

    Args:
        begun: the run; one that is resumed keeps its splits.

    Raises:
        UserError: when the data, the monitor, a target or the correction cannot be used.
    """
    settings, resumed = begun.settings, begun.resumed
    manifest = read_manifest(resumed.splits) if resumed and resumed.splits.exists() else None
    corrections = None if manifest is None or resumed is None else saved_corrections(resumed)
    loaded = load_data(settings.data, seed=settings.seed, manifest=manifest, corrections=corrections)
    splits = loaded.splits
    if begun.origin is not None and settings.data.splits == str(begun.origin.splits):
        log.info("%s", new_words(begun.origin, loaded.corrections))
        tell_classes(begun.origin, splits.class_names)
    check_monitor(settings.monitor, splits.class_names, splits.tables[VAL].targets, setting="monitor")
    settings.target.check_names(splits.class_names)
    counts = splits.counts(TRAIN)
    correction = correct_imbalance(
        settings.imbalance, settings.sampler, class_counts=counts, class_names=splits.class_names
    )
    log.info("%s\n%s", loaded.words, class_words(splits.class_names, counts))
    checks = preflight(loaded.index, loaded.copies, allow_leaks=settings.allow_leaks)
    dark = check_depth(loaded.depth, loaded.index.root, max_value=settings.transforms.max_value)
    for line in dark:
        log.warning("data check: %s", line)
    for line in checks:
        log.info("data check: %s", line)
    log.info("model: %s", model_words(begun.config))
    if not isinstance(settings.model, ShallowModel):
        log.info("recipe: %s", recipe_words(begun.config))
        advice = recipe_advice(
            begun.config[RECIPE], num_images=len(splits.tables[TRAIN]), ratio=imbalance_ratio(counts)
        )
        if advice is not None:
            log.info("hint: %s", advice)
    log.info("imbalance: %s", correction.words)
    return Inputs(loaded, correction, [*dark, *checks])


def tell_classes(origin: RunDir, class_names: Sequence[str]) -> None:
    """Say which classes are new or gone since the run whose data and splits are taken."""
    rows = read_manifest(origin.splits)
    before = set(rows.labels[rows.splits.where(TRAIN)].counts())
    for names, words in ((set(class_names) - before, "new"), (before - set(class_names), "gone")):
        if names:
            log.warning(
                "by the corrections %s %s: %s", plural(len(names), "class is", "classes are"), words,
                enumerate_words(sorted(map(shown, names))),
            )  # fmt: skip


TINY_BELOW = 1000
"""Training images."""

LONG_TAIL_FROM = 10
"""Images of the largest class over those of the smallest."""


def recipe_advice(recipe: str, *, num_images: int, ratio: float) -> str | None:
    """Name a recipe that is made for the data, for a network from random weights whose recipe auto chose.

    Not for fine-tuning: tiny gained nothing there (docs/benchmarks.md), and the learning rate of longtail is one for
    random weights.

    Args:
        recipe: the run's.
        num_images: of the training split.
        ratio: images of the largest class over those of the smallest.
    """
    if recipe != "scratch":
        return None
    if num_images < TINY_BELOW:
        return f"for fewer than {TINY_BELOW:,} training images there is recipe=tiny, which takes longer"
    if ratio >= LONG_TAIL_FROM:
        return f"for classes of {LONG_TAIL_FROM}:1 and more there is recipe=longtail, which takes longer"
    return None
