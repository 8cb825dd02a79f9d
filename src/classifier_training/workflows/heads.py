"""Fitting the network's head to stored features: before the first epoch, and after the last."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.types import TRAIN, VAL, softmax
from classifier_training.evaluation.metrics import classification_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from classifier_training.callbacks.observer import RunContext
    from classifier_training.data.datamodule import ImageFolderDataModule
    from classifier_training.training.device import Device
    from classifier_training.training.linear_head import LinearHead
    from classifier_training.training.module import ClassifierModule

log = logging.getLogger(__name__)

RETRAIN_HEAD = "retrain_head=true"
PROBE = "transfer=probe"


def probe_head(
    run: RunContext,
    module: ClassifierModule,
    datamodule: ImageFolderDataModule,
    device: Device,
    class_weights: NDArray[np.float64] | None,
) -> None:
    """Fit the head to the features of the network as it starts, and put it in place.

    Features are those of the pictures without augmentation. Kumar et al. 2022 (arXiv:2202.10054).

    Args:
        run: its monitored metric, on validation, chooses the penalty.
        module: its network's head is changed.
        datamodule: the pictures.
        device: where to compute.
        class_weights: of the imbalance's correction [K], or None.
    """
    started = time.perf_counter()
    fitted, head, _, num_images = _fit(run, module, datamodule, device, class_weights, PROBE)
    fitted.write(head)
    log.info(
        "linear probe: %s %.4f by features of %s images, in %.1f s (penalty %g)",
        run.monitor,
        _shown(run, fitted.score),
        f"{num_images:,}",
        time.perf_counter() - started,
        fitted.penalty,
    )


def retrain_head(
    run: RunContext, module: ClassifierModule, datamodule: ImageFolderDataModule, device: Device, epoch: int
) -> float | None:
    """Fit the head anew with all classes alike, on the features of the best weights; keep it unless it scores lower.

    Classifier re-training (Kang et al. 2020, arXiv:1910.09217) draws all classes equally often; fitting to all
    features at once, each class weighted by the inverse of its count, is what that comes to on average.

    Args:
        run: its monitored metric, on validation, decides.
        module: holds the best weights; its network's head is changed when the new one is kept.
        datamodule: the pictures.
        device: where to compute.
        epoch: of the best weights, for the message.

    Returns:
        The monitored metric with the new head, or None when the old one was kept.
    """
    weights = 1 / np.maximum(run.tables[TRAIN].class_counts(len(run.class_names)), 1)
    fitted, head, before, _ = _fit(run, module, datamodule, device, weights, RETRAIN_HEAD)
    kept = fitted.score >= before
    if kept:
        fitted.write(head)
    log.info(
        "head re-trained with all classes alike: %s %.4f, it was %.4f with the weights of epoch %d: %s",
        run.monitor,
        _shown(run, fitted.score),
        _shown(run, before),
        epoch,
        "the new head is kept" if kept else "the old head is kept",
    )
    return _shown(run, fitted.score) if kept else None


def _fit(
    run: RunContext,
    module: ClassifierModule,
    datamodule: ImageFolderDataModule,
    device: Device,
    class_weights: NDArray[np.float64] | None,
    setting: str,
) -> tuple[LinearHead, nn.Linear | nn.Conv2d, float, int]:
    """Fit a head; returns it, the layer that it is for, the score of that layer as it is, and the number of images."""
    import torch

    from classifier_training.training.features import extract_features, linear_head
    from classifier_training.training.linear_head import fit_linear_head, head_logits

    train, val = (
        extract_features(module, datamodule.evaluation_loader(split), device, setting=setting) for split in (TRAIN, VAL)
    )
    score = _scorer(run, val.targets)
    head = linear_head(module.network, setting=setting)
    module.cpu()
    before = score(head_logits(head.weight.detach(), None if head.bias is None else head.bias.detach(), val.values))
    fitted = fit_linear_head(
        train,
        val,
        class_weights=None if class_weights is None else torch.from_numpy(class_weights).float(),
        num_classes=len(run.class_names),
        has_bias=head.bias is not None,
        score=score,
    )
    return fitted, head, before, len(train.targets)


def _scorer(run: RunContext, targets: Tensor) -> Callable[[Tensor], float]:
    """Return the monitored metric on validation as a function of logits, turned so that larger is better."""
    name = run.monitor.partition("/")[2]
    true = targets.numpy()

    def score(logits: Tensor) -> float:
        answers = logits.numpy()
        losses = -np.log(np.maximum(softmax(answers)[np.arange(len(true)), true], 1e-38))
        return _shown(run, classification_metrics(answers, true, losses, run.class_names, also=[name])[name])

    return score


def _shown(run: RunContext, value: float) -> float:
    return value if run.monitor_mode == "max" else -value
