"""What `train` learns from: the data, checked, and how its unbalanced classes are met."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.conf.recipes import RECIPE, model_words, recipe_words
from classifier_training.core.types import TRAIN, VAL
from classifier_training.data.checking.preflight import preflight
from classifier_training.data.checking.quality import imbalance_ratio
from classifier_training.data.depth import check_depth
from classifier_training.data.load import LoadedData, load_data
from classifier_training.data.splitting.splits import read_manifest
from classifier_training.evaluation.metrics import check_monitor
from classifier_training.training.imbalance import Correction, Switch, correct_imbalance
from classifier_training.workflows.training.advice import recipe_advice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.formats.source import DataSource

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


def read_inputs(
    data: DataSource,
    imbalance: Switch,
    sampler: Callable[..., Any] | None,
    *,
    config: Mapping[str, Any],
    monitor: str,
    seed: int,
    resumed: RunDir | None,
    allow_leaks: bool,
    max_value: int,
) -> Inputs:
    """Read and split the data, choose the correction, and say what was found.

    Args:
        data: where it is.
        imbalance: the user's `imbalance=`.
        sampler: the user's `sampler=`, if any.
        config: of the run, which names its recipe.
        monitor: metric that decides which weights are best; it must be defined on this data.
        seed: of the run.
        resumed: the run that goes on, whose splits are kept.
        allow_leaks: whether files may be in two splits under different names.
        max_value: white of grey pictures of more than 8 bits.

    Raises:
        UserError: when the data, the monitor or the correction cannot be used.
    """
    loaded = load_data(
        data, seed=seed, manifest=read_manifest(resumed.splits) if resumed and resumed.splits.exists() else None
    )
    splits = loaded.splits
    check_monitor(monitor, splits.class_names, splits.tables[VAL].targets, setting="monitor")
    counts = splits.counts(TRAIN)
    correction = correct_imbalance(imbalance, sampler, class_counts=counts, class_names=splits.class_names)
    log.info(
        "%s\nmodel: %s\nrecipe: %s\nimbalance: %s",
        loaded.words, model_words(config), recipe_words(config), correction.words,
    )  # fmt: skip
    advice = recipe_advice(config[RECIPE], num_images=len(splits.tables[TRAIN]), ratio=imbalance_ratio(counts))
    if advice is not None:
        log.info("recipe: %s", advice)
    checks = preflight(loaded.index, loaded.copies, allow_leaks=allow_leaks)
    dark = check_depth(loaded.depth, loaded.index.root, max_value=max_value)
    for line in dark:
        log.warning("data check: %s", line)
    for line in checks:
        log.info("data check: %s", line)
    return Inputs(loaded, correction, [*dark, *checks])
