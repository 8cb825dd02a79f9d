"""What `train` learns from: the data, checked, and how its unbalanced classes are met."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.conf.inherited import without_origin
from classifier_training.conf.recipes import RECIPE, model_words, recipe_words
from classifier_training.core.errors import enumerate_words, plural, shown
from classifier_training.core.types import TRAIN, VAL
from classifier_training.data.checking.preflight import preflight
from classifier_training.data.checking.statistics import imbalance_ratio
from classifier_training.data.corrections import saved_corrections
from classifier_training.data.image_settings import check_depth
from classifier_training.data.load import load_data
from classifier_training.data.replay import EarlierRun, roots_of
from classifier_training.data.samplers import EpochSampler, Replay
from classifier_training.data.splitting.manifest import read_manifest, read_replayed
from classifier_training.evaluation.metrics import check_monitor
from classifier_training.models.shallow import ShallowModel
from classifier_training.training.decisions import read_decisions
from classifier_training.training.imbalance import correct_imbalance
from classifier_training.workflows.evaluating.corrections_effect import new_words
from classifier_training.workflows.evaluating.run_model import describe_trained
from classifier_training.workflows.evaluating.samples import own_source
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
        replay: old training images, of which an epoch has some.
        first_classes: those of the run that is trained again, which keep their numbers.
    """

    loaded: LoadedData
    correction: Correction
    checks: list[str]
    replay: Replay | None = None
    first_classes: tuple[str, ...] = ()

    @property
    def num_epoch_images(self) -> int:
        """Images of an epoch."""
        number = len(self.loaded.splits.tables[TRAIN])
        return number if self.replay is None else number - int(self.replay.is_old.sum()) + self.replay.number


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
    first_classes: tuple[str, ...] = ()
    earlier = replayed = None
    if settings.replay is not None:
        first_classes = _first_classes(begun)
        if manifest is None:
            earlier = open_earlier(begun, first_classes)
        elif resumed is not None:
            replayed = read_replayed(resumed.splits)
    loaded = load_data(
        settings.data, seed=settings.seed, manifest=manifest, corrections=corrections, earlier=earlier,
        first_classes=first_classes, replayed=replayed,
    )  # fmt: skip
    splits, replay = loaded.splits, None
    is_old = loaded.replayed_in_train
    if settings.replay is not None and is_old is not None:
        replay = Replay.of_share(is_old, settings.replay)
        log.info("%s", replay_words(replay, splits.class_names, first_classes))
    elif begun.origin is not None and settings.data.splits == str(begun.origin.splits):
        log.info("%s", new_words(begun.origin, loaded.corrections))
        tell_classes(begun.origin, splits.class_names)
    check_monitor(settings.monitor, splits.class_names, splits.tables[VAL].targets, setting="monitor")
    settings.target.check_names(splits.class_names)
    counts = splits.counts(TRAIN)
    if replay is not None:
        # What an epoch shows.
        sampler = EpochSampler(splits.tables[TRAIN].targets, seed=settings.seed, replay=replay)
        counts = sampler.draws(0, splits.num_classes)
    correction = correct_imbalance(
        settings.imbalance, settings.sampler, class_counts=counts, class_names=splits.class_names
    )
    log.info("%s\n%s", loaded.words, class_words(splits.class_names, splits.counts(TRAIN)))
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
    return Inputs(loaded, correction, [*dark, *checks], replay, first_classes)


def _first_classes(begun: Begun) -> tuple[str, ...]:
    """Return the classes of the run that is trained again, in their order."""
    if begun.origin is not None:
        return describe_trained(begun.origin)[0].class_names
    return read_decisions(begun.resumed.decisions).first_classes if begun.resumed else ()


def open_earlier(begun: Begun, class_names: tuple[str, ...]) -> EarlierRun:
    """Return the data of the run that is trained again.

    Raises:
        UserError: when there is no such run, or it does not say what it was trained on.
    """
    if begun.origin is None:
        raise without_origin(begun.settings.replay)
    roots = roots_of(own_source(begun.origin))
    samples = read_manifest(begun.origin.splits)
    return EarlierRun(path=begun.origin.path, samples=samples, class_names=class_names, roots=tuple(roots))


def replay_words(replay: Replay, class_names: Sequence[str], old: Sequence[str]) -> str:
    """Say how many old and new images an epoch has, and which classes are new."""
    num_old = int(replay.is_old.sum())
    num_new = len(replay.is_old) - num_old
    new = [shown(name) for name in class_names if name not in set(old)]
    share = replay.number / (replay.number + num_new)
    classes = f"new: {enumerate_words(new)}" if new else "none is new"
    return (
        f"replay: an epoch has {num_new:,} new images and {replay.number:,} of the {num_old:,} old ones "
        f"({share:.0%}), drawn evenly over the classes; {len(class_names)} classes, {classes}"
    )


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
