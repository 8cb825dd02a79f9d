"""The larger steps of `train` for a model that is fitted at once: features and fit.

In place of `fit`. Observers see one epoch, number 0; Lightning's trainer and what needs it have no part.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from classifier_training.callbacks.observer import EpochEnd, FitEnd, Observer, RunContext, metric_words
from classifier_training.core.run_dir import write_csv
from classifier_training.core.runtime import DETAIL, num_cores, peak_memory_mb
from classifier_training.core.types import TEST, TRAIN, VAL, SplitResult
from classifier_training.evaluation.metrics import without_value
from classifier_training.workflows.training.end import Trained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from classifier_training.models.shallow import ShallowModel
    from classifier_training.models.shallow_classifiers import ShallowNetwork
    from classifier_training.training.imbalance import Correction
    from classifier_training.workflows.training.job import TrainingJob

log = logging.getLogger(__name__)


def fit_shallow(job: TrainingJob) -> Trained:
    """Fit a shallow model and let the observers see its one epoch, number 0."""
    from classifier_training.training.loggers import closed_after_errors
    from classifier_training.training.shallow import describe_split, fit_classifier, open_cache, score

    run, datamodule, settings = job.run, job.datamodule, job.settings
    model = cast("ShallowModel", settings.model)
    observers = [*(item for item in settings.callbacks.values() if isinstance(item, Observer)), *job.observers]
    weights = _class_weights(job.correction, run.tables[TRAIN].class_counts(len(run.class_names)))
    run = dataclasses.replace(run, draws=lambda _epoch: _expected_draws(run, weights), max_epochs=1)
    network = cast("ShallowNetwork", run.model.network).eval()
    log.info("features and fit: on the CPU, %d cores", num_cores())
    built_loggers = [build(run.run_dir) for build in settings.logging.values()]
    held_out = TEST if TEST in run.tables else VAL
    started = time.perf_counter()

    def describe(pixels: Tensor) -> Tensor:
        return network.describe(pixels.flip(1) if run.preprocessing.channel_order == "bgr" else pixels)

    features = {**model.feature_settings, "channel_order": run.preprocessing.channel_order}
    room = 4.0 * _num_features(network, run.preprocessing.size) * sum(map(len, run.tables.values()))
    with closed_after_errors(built_loggers):
        with open_cache(
            features, wanted_bytes=room, store_gb=settings.data.store_gb, keeps=settings.data.store != "off"
        ) as cache:
            described = {}
            for split in run.tables:
                described[split] = describe_split(datamodule.evaluation_loader(split), describe, cache)
                found = described[split]
                log.info(
                    "features: %s, %d of %d images, %d values each, %d found on disk",
                    split, len(found.targets), len(run.tables[split]), found.features.shape[1], found.num_kept,
                    extra=DETAIL,
                )  # fmt: skip
        seconds = time.perf_counter() - started
        num_images = sum(len(found.targets) for found in described.values())
        fit_started = time.perf_counter()
        fit_classifier(
            network.classifier,
            model.estimator(settings.seed % 2**32),
            described[TRAIN],
            described[VAL],
            class_weights=weights,
        )
        log.info("fitted in %.1f s", time.perf_counter() - fit_started, extra=DETAIL)
        results = {
            split: score(
                network.classifier,
                found,
                split=split,
                class_names=run.class_names,
                watched=run.monitor.partition("/")[2],
            )
            for split, found in described.items()
        }
        row = {
            "epoch": 0,
            "step": 1,
            "train/loss": results[TRAIN].metrics["loss"],
            "train/acc_top1": results[TRAIN].metrics["acc_top1"],
            **{f"{VAL}/{name}": value for name, value in results[VAL].metrics.items()},
            "epoch_seconds": time.perf_counter() - started,
            "images_per_second": num_images / max(seconds, 1e-9),
            "peak_memory_mb": peak_memory_mb(),
        }
        if run.monitor not in row:
            raise without_value(run.monitor)
        write_csv(run.run_dir.metrics, list(row), [[v if isinstance(v, int) else f"{v:.6g}" for v in row.values()]])
        _show(run, observers, row, results[VAL])
        for logger in built_loggers:
            logger.log_metrics(row, step=1)
    return Trained(
        run=run,
        observers=observers,
        loggers=built_loggers,
        end=FitEnd(rows=[row], best_epoch=0, best_score=row[run.monitor], ended="the model is fitted at once"),
        score=lambda: results[held_out],
        source=run.run_dir.weights.name,
    )


def _show(run: RunContext, observers: list[Observer], row: Mapping[str, float], validation: SplitResult) -> None:
    """Tell the observers of the one epoch; only now does the network have its size."""
    log.info("fitted: %s", metric_words(row, run.monitor))
    for observer in observers:
        observer.fit_started(run)
    for observer in observers:
        observer.epoch_ended(run, EpochEnd(epoch=0, rows=[row], validation=validation, best_epoch=0))


def _class_weights(correction: Correction, counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return how much an image of each class counts [K], 1 in the mean over all images.

    A sampler's draws become weights: what it draws in the mean, and no image is left out by chance.
    """
    weights = correction.class_weights
    return None if weights is None else weights * counts.sum() / (weights * counts).sum()


def _expected_draws(run: RunContext, weights: NDArray[np.float64] | None) -> NDArray[np.int64]:
    counts = run.tables[TRAIN].class_counts(len(run.class_names))
    return counts if weights is None else (weights * counts).round().astype(counts.dtype)


def _num_features(network: ShallowNetwork, size: tuple[int, int]) -> int:
    import torch

    with torch.inference_mode():
        return network.describe(torch.zeros(1, 3, *size)).shape[1]
