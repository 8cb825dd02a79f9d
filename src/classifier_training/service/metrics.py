"""What Prometheus reads: counts and durations of requests, batches and predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from classifier_training.core.errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.service.engine import Engine
    from classifier_training.service.limits import Gate
    from classifier_training.service.observing import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
SHARES = tuple(step / 20 for step in range(1, 21))
RATIOS = (0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 4)
"""Upper bounds of the histograms' bins: durations, batches, confidences, and novelty as a multiple of its threshold."""


class Metrics:
    """All metrics of a server, which are of this object alone.

    Args:
        gate: whose counts are shown as they are when somebody reads them.
    """

    def __init__(self, gate: Gate) -> None:
        # The time at which each series began would double what is read.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        PlatformCollector(registry=own)
        self.seconds = Histogram(
            "classifier_request_seconds",
            "From the head of a request to the end of its response",
            ("endpoint", "arm"),
            buckets=SECONDS,
            registry=own,
        )
        self.requests = Counter("classifier_requests", "Responses by status", ("endpoint", "code"), registry=own)
        self.batch = Histogram(
            "classifier_batch_images", "Images in a batch of the model", ("arm",), buckets=IMAGES, registry=own
        )
        self.run = Histogram(
            "classifier_batch_seconds", "Seconds of a batch in the model", ("arm",), buckets=SECONDS, registry=own
        )
        self.predictions = Counter(
            "classifier_predictions", "Predictions by class, rejected ones too", ("arm", "label"), registry=own
        )
        self.confidence = Histogram(
            "classifier_confidence",
            "Probability of the predicted class",
            ("arm",),
            buckets=SHARES,
            registry=own,
        )
        self.novelty = Histogram(
            "classifier_novelty_ratio",
            "Novelty score over the threshold of the run: above 1 an image is unlike the training data",
            ("arm",),
            buckets=RATIOS,
            registry=own,
        )
        self.rejected = Counter("classifier_rejected", "Rejected predictions", ("arm", "reason"), registry=own)
        self.unreadable = Counter("classifier_unreadable_images", "Images that cannot be classified", registry=own)
        self.reloads = Counter("classifier_reloads", "Runs opened in place of another", ("arm", "result"), registry=own)
        self.stale = Gauge(
            "classifier_stale", "1 while the run that run= stands for cannot be opened", ("arm",), registry=own
        )
        self.model = Gauge("classifier_model_info", "The run that answers", ("arm", "run", "sha256"), registry=own)
        self.unseen = Counter("classifier_unseen_answers", "Answers dropped before observers saw them", registry=own)
        self.observer_errors = Counter("classifier_observer_errors", "Errors of observers", registry=own)
        self.unlogged = Counter("classifier_unlogged_lines", "Log lines dropped as nobody takes them", registry=own)
        queue = Gauge("classifier_queue_images", "Images that are being answered or wait", registry=own)
        queue.set_function(lambda: gate.images)
        held = Gauge("classifier_body_bytes", "Bytes of bodies that are held", registry=own)
        held.set_function(lambda: gate.bytes)

    def opened(self, arm: str, engine: Engine, *, instead_of: Engine | None = None) -> None:
        """Count a run that answers from now on."""
        if instead_of is not None:
            self.reloads.labels(arm, "done").inc()
            self.model.remove(arm, instead_of.run, instead_of.predictor.model_sha256)
        self.model.labels(arm, engine.run, engine.predictor.model_sha256).set(1)
        self.stale.labels(arm).set(0)
        for name in engine.class_names:
            # From 0 on, so that a class that is never predicted shows.
            self.predictions.labels(arm, shown(name)).inc(0)

    def answered(self, arm: str, answers: Sequence[Answer], *, novelty_threshold: float | None) -> None:
        """Count finished answers."""
        for answer in answers:
            prediction = answer.prediction
            if prediction.label is None or prediction.confidence is None:
                self.unreadable.inc()
                continue
            # With unknown=true the label is no class.
            self.predictions.labels(arm, shown(prediction.top_k[0][0])).inc()
            self.confidence.labels(arm).observe(prediction.confidence)
            if prediction.reject_reason is not None:
                self.rejected.labels(arm, prediction.reject_reason).inc()
            if answer.novelty is not None and novelty_threshold:
                self.novelty.labels(arm).observe(answer.novelty / novelty_threshold)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the form that a reader accepts, and its content type."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind
