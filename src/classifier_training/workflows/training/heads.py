"""Fitting the network's head to stored features: before the first epoch, and after the last."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.display import progress
from classifier_training.core.errors import reason_of
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import DETAIL
from classifier_training.core.types import TRAIN, VAL, SplitResult, epoch_name, softmax
from classifier_training.evaluation.learning_curve import MIN_HELD_OUT, MIN_TRAIN
from classifier_training.evaluation.metrics import classification_metrics
from classifier_training.training.imbalance import correct_imbalance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from classifier_training.callbacks.observer import RunContext
    from classifier_training.core.types import Batch
    from classifier_training.training.linear_head import Features, LinearHead
    from classifier_training.training.module import ClassifierModule
    from classifier_training.workflows.training.job import TrainingJob

log = logging.getLogger(__name__)

RETRAIN_HEAD = "retrain_head=true"
PROBE = "the linear probe"

MAX_PROBE_SHARE = 0.45
"""Images that the probe computes features of, over those that the run trains on: a forward pass takes about a third of
a step, so that the probe takes at most about 15 % of the run."""

NUM_RESAMPLES, MAX_RESAMPLED = 50, 20_000
"""Of the bootstrap, and images from which on the standard error is too small to matter."""

MIN_IN_TIME = 20
"""Images of each class on average, however short the time is."""

MIN_PROBE_IMAGES, MAX_PROBE_IMAGES = 1_000, 50_000
"""So many are quick in any run, and more than so many add little: there are a few thousand features."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the linear probe gave; the network has its head.

    Args:
        result: predictions on the validation split, with their metrics.
        score: the monitored metric of these.
        standard_error: of the score, by the bootstrap.
        seconds: that it took.
        num_images: whose features the head was fitted to.
    """

    result: SplitResult
    score: float
    standard_error: float
    seconds: float
    num_images: int


def probe_head(job: TrainingJob, module: ClassifierModule, *, seconds: float | None = None) -> Probe:
    """Fit the head to the features of the network as it starts, and put it in place.

    Features are those of the images without augmentation. A head that came with the weights, for the same classes, is
    kept where it scores as high. Kumar et al. 2022 (arXiv:2202.10054).

    Args:
        job: of a run; where no epochs follow, the probe uses all images, and where the run has decided before how many,
            it uses those.
        module: its network's head is changed.
        seconds: that it may take; None for no bound. All validation images are predicted in any case.
    """
    started = time.perf_counter()
    run, num_images = job.run, job.decisions.num_probe_images
    share = math.ceil(MAX_PROBE_SHARE * run.max_epochs * len(job.datamodule.sampler))
    limit = min(MAX_PROBE_IMAGES, max(MIN_PROBE_IMAGES, share))

    def num_in_time(num_predicted: int) -> int | None:
        if num_images is not None:
            return num_images
        if not job.settings.transfer.trains:
            return None
        if seconds is None:
            return limit
        taken = time.perf_counter() - started
        fitting = int((seconds - taken) / taken * num_predicted)
        return min(limit, max(fitting, MIN_IN_TIME * len(run.class_names)))

    fit = _fit(job, module, lambda counts: _probe_weights(job, counts), PROBE, limit=num_in_time)
    result = fit.result(run)
    score = float(result.metrics[run.monitor.partition("/")[2]])
    words = f"{run.monitor} {score:.4f}"
    weights = run.model.weights
    if weights is not None and weights.has_head and fit.score(run, fit.before) >= oriented(run, score):
        result = _result(run, fit.before, fit.val)
        score = float(result.metrics[run.monitor.partition("/")[2]])
        words += f"; the last layer that the weights came with has {score:.4f} and is kept"
    else:
        fit.fitted.write(fit.head)
    probe = Probe(
        result=result,
        score=score,
        standard_error=score_error(run, result),
        seconds=time.perf_counter() - started,
        num_images=len(fit.train.targets),
    )
    log.info(
        "linear probe: %s, after %.0f s; the last layer alone, fitted to the features of %s images",
        words, probe.seconds, f"{probe.num_images:,}",
    )  # fmt: skip
    log.info("linear probe: penalty %g", fit.fitted.penalty, extra=DETAIL)
    if seconds is None or probe.seconds <= seconds:
        _keep_learning_points(job, fit)
    return probe


def _probe_weights(job: TrainingJob, counts: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Weights of the classes for images that are seen at once; with replay they are others than those of an epoch."""
    if job.settings.replay is None or job.settings.sampler is not None:
        return job.correction.class_weights
    names = job.run.class_names
    return correct_imbalance(job.settings.imbalance, None, class_counts=counts, class_names=names).class_weights


def _keep_learning_points(job: TrainingJob, fit: _Fit) -> None:
    """Count errors of heads that are fitted to parts of the features, which are there now, for the end of the run."""
    from classifier_training.training.learning_curve import measure_curve

    run = job.run
    images_now = run.tables[TRAIN].class_counts(len(run.class_names))
    held_out = np.bincount(fit.val.targets.numpy(), minlength=len(images_now))
    if not np.any((images_now >= MIN_TRAIN) & (held_out >= MIN_HELD_OUT)):
        return
    try:
        points = measure_curve(
            fit.train, fit.val, images_now=images_now, has_bias=fit.head.bias is not None, penalty=fit.fitted.penalty,
            seed=job.settings.seed,
        )  # fmt: skip
    except Exception as error:
        # An estimate that is left out must not cost the training.
        log.warning("no learning curves: %s", reason_of(error), exc_info=error)
    else:
        write_json(run.run_dir.learning_points, points.to_dict())


def retrain_head(job: TrainingJob, module: ClassifierModule, epoch: int) -> float | None:
    """Fit the head anew with all classes alike, on the features of the best weights; keep it unless it scores lower.

    Classifier re-training (Kang et al. 2020, arXiv:1910.09217) draws all classes equally often; fitting to all
    features at once, each class weighted by the inverse of its count, is what that comes to on average.

    Args:
        job: its monitored metric, on validation, decides.
        module: holds the best weights; its network's head is changed when the new one is kept.
        epoch: of the best weights, for the message.

    Returns:
        The monitored metric with the new head, or None when the old one was kept.
    """
    run = job.run
    weights = 1 / np.maximum(run.tables[TRAIN].class_counts(len(run.class_names)), 1)
    fit = _fit(job, module, lambda _: weights, RETRAIN_HEAD)
    score, before = fit.score(run, fit.fitted.logits(fit.val.values)), fit.score(run, fit.before)
    kept = score >= before
    if kept:
        fit.fitted.write(fit.head)
    log.info(
        "head re-trained with all classes alike: %s %.4f, it was %.4f with the weights of %s: %s",
        run.monitor,
        oriented(run, score),
        oriented(run, before),
        epoch_name(epoch),
        "the new head is kept" if kept else "the old head is kept",
    )
    return oriented(run, score) if kept else None


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A head fitted to features.

    Args:
        fitted: the linear classifier.
        head: the layer that it is for.
        train: features that it was fitted to.
        val: features that its penalty was chosen by.
        before: logits of the layer as it was, for these [N, K].
    """

    fitted: LinearHead
    head: nn.Linear | nn.Conv2d
    train: Features
    val: Features
    before: Tensor

    def result(self, run: RunContext) -> SplitResult:
        """Predictions of the fitted head on validation."""
        return _result(run, self.fitted.logits(self.val.values), self.val)

    def score(self, run: RunContext, logits: Tensor) -> float:
        """The monitored metric of logits for the validation images, turned so that larger is better."""
        return oriented(run, float(_result(run, logits, self.val).metrics[run.monitor.partition("/")[2]]))


def _fit(
    job: TrainingJob,
    module: ClassifierModule,
    class_weights: Callable[[NDArray[np.int64]], NDArray[np.float64] | None],
    setting: str,
    *,
    limit: Callable[[int], int | None] = lambda _: None,
) -> _Fit:
    """Fit a head to features of the training split, or of as many of its images as the limit allows.

    The weights of the classes are a function of the images that each has among these. The limit is a function of the
    number of validation images, called once their features are there.
    """
    import torch

    from classifier_training.training.linear_head import fit_linear_head, head_logits, linear_head

    val = _features(job, module, VAL, setting=setting)
    train = _features(job, module, TRAIN, limit=limit(len(val.targets)), setting=setting)
    head = linear_head(module.network, setting=setting)
    module.cpu()
    before = head_logits(head.weight.detach(), None if head.bias is None else head.bias.detach(), val.values)
    weights = class_weights(np.bincount(train.targets.numpy(), minlength=len(job.run.class_names)))
    fitted = fit_linear_head(
        train,
        val,
        class_weights=None if weights is None else torch.from_numpy(weights).float(),
        num_classes=len(job.run.class_names),
        has_bias=head.bias is not None,
    )
    return _Fit(fitted=fitted, head=head, train=train, val=val, before=before)


def _features(
    job: TrainingJob, module: ClassifierModule, split: str, *, setting: str, limit: int | None = None
) -> Features:
    """Compute the features of a split, or of so many of its images, behind a progress bar."""
    from classifier_training.training.linear_head import extract_features

    loader, number = job.datamodule.evaluation_loader(split, limit=limit), len(job.run.tables[split])
    with progress(f"features of {split} images", total=lambda: number if limit is None else min(limit, number)) as bar:

        def batches() -> Iterator[Batch]:
            for batch in loader:
                yield batch
                bar(len(batch.targets))

        return extract_features(module, batches(), job.device, setting=setting)


def _result(run: RunContext, logits: Tensor, val: Features) -> SplitResult:
    values, true = logits.numpy(), val.targets.numpy()
    losses = -np.log(np.maximum(softmax(values)[np.arange(len(true)), true], 1e-38))
    metrics = classification_metrics(values, true, losses, run.class_names, also=[run.monitor.partition("/")[2]])
    return SplitResult(VAL, values, true, val.indices.numpy(), losses, metrics)


def validation_result(job: TrainingJob, module: ClassifierModule, *, limit: int | None = None) -> SplitResult:
    """Predict the validation images, or so many of them, with a network that ends in one linear layer."""
    from classifier_training.training.linear_head import head_logits, linear_head

    val = _features(job, module, VAL, limit=limit, setting="transfer=lp_ft")
    module.cpu()
    head = linear_head(module.network, setting="transfer=lp_ft")
    logits = head_logits(head.weight.detach(), None if head.bias is None else head.bias.detach(), val.values)
    return _result(job.run, logits, val)


def score_error(run: RunContext, *results: SplitResult) -> float:
    """Standard error of the monitored metric, or of its difference between two results for the same images.

    Args:
        run: names the metric.
        results: one or two.

    Returns:
        Standard deviation over resampled images (bootstrap); 0 where there are very many, or none has the metric.
    """
    number, name = len(results[0].targets), run.monitor.partition("/")[2]
    if number > MAX_RESAMPLED:
        return 0.0
    draw = np.random.default_rng(0)
    found = []
    for _ in range(NUM_RESAMPLES):
        rows = draw.integers(number, size=number)
        values = [
            # A resample may lack the images of a class that the metric is of.
            classification_metrics(
                one.logits[rows], one.targets[rows], one.losses[rows], run.class_names, also=[name]
            ).get(name, np.nan)
            for one in results
        ]
        found.append(values[0] - sum(values[1:]))
    known = np.array(found)[np.isfinite(found)]
    return float(known.std()) if len(known) else 0.0


def score_of(run: RunContext, result: SplitResult) -> float:
    """The monitored metric of a result, turned so that larger is better."""
    return oriented(run, float(result.metrics[run.monitor.partition("/")[2]]))


def oriented(run: RunContext, value: float) -> float:
    """The value, turned so that larger is better; done twice, it is the value again."""
    return value if run.monitor_mode == "max" else -value
