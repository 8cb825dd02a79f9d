"""What `train` learns from: the data, checked, and how its unbalanced classes are met."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.conf.recipes import RECIPE, model_words, recipe_words
from classifier_training.core.processes import own_share
from classifier_training.core.types import TRAIN, VAL
from classifier_training.data.checking.preflight import preflight
from classifier_training.data.checking.statistics import imbalance_ratio
from classifier_training.data.image_settings import check_depth
from classifier_training.data.load import LoadedData, load_data
from classifier_training.data.splitting.splits import read_manifest
from classifier_training.data.store.plan import open_stores
from classifier_training.evaluation.metrics import check_monitor
from classifier_training.training.imbalance import Correction, Switch, correct_imbalance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.files import Room
    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.augmenting.transforms import Transforms
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.data.formats.source import DataSource
    from classifier_training.data.index import SplitData
    from classifier_training.training.device import Device
    from classifier_training.workflows.training.network import Network

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
        max_value: white of grey images of more than 8 bits.

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


TINY_BELOW = 1000
"""Training images."""

LONG_TAIL_FROM = 10
"""Images of the largest class over those of the smallest."""


def recipe_advice(recipe: str, *, num_images: int, ratio: float) -> str | None:
    """Name the recipe that is made for the data, where the one taken is one of those that auto takes.

    Args:
        recipe: the run's.
        num_images: of the training split.
        ratio: images of the largest class over those of the smallest.
    """
    if recipe not in ("finetune", "scratch"):
        return None
    if num_images < TINY_BELOW:
        return f"{num_images:,} training images: recipe=tiny is made for fewer than {TINY_BELOW:,}, and takes longer"
    if ratio >= LONG_TAIL_FROM:
        return f"classes {ratio:.1f}:1: recipe=longtail is made for {LONG_TAIL_FROM}:1 and more, and takes longer"
    return None


@contextmanager
def open_pictures(
    splits: SplitData,
    network: Network,
    *,
    data: DataSource,
    transforms: Transforms,
    class_weights: NDArray[np.float64] | None,
    device: Device,
    seed: int,
    room: Room | None,
) -> Iterator[ImageFolderDataModule]:
    """Give the data module of a run; its stores are let go of when the block is left.

    Args:
        splits: classes and tables.
        network: says how large images and batches are.
        data: how they are read and stored.
        transforms: what becomes of them.
        class_weights: how often one image of each class is drawn [K]; None takes every image once an epoch.
        device: where they are used.
        seed: of the run.
        room: what the run will write; None where another process has looked.

    Raises:
        UserError: when a store was asked for, and there is no room, or none for the run.
    """
    from classifier_training.data.datamodule import ImageFolderDataModule, choose_num_workers

    preprocessing = transforms.evaluation(network.image_size, network.built.input_spec)
    with open_stores(
        splits,
        preprocessing=preprocessing,
        crop_scale=transforms.crop_scale,
        store=data.store,
        store_gb=data.store_gb,
        share=own_share(device.num_devices),
        room=room,
    ) as stores:
        yield ImageFolderDataModule(
            splits,
            preprocessing=preprocessing,
            augmentation=transforms,
            class_weights=class_weights,
            batch_size=network.batch_size,
            num_workers=choose_num_workers(
                data.num_workers, accelerator=device.accelerator, num_ranks=device.num_devices
            ),
            on_error=data.on_error,
            seed=seed,
            stores=stores,
            on_device=device.accelerator != "cpu",
            min_batch_size=network.min_batch_size * device.num_devices,
        )
