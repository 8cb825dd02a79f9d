"""What a model predicted for its validation images and for changed copies of them: what use is compared with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.monitoring.corruptions import STRENGTHS, corrupt
from classifier_training.monitoring.sketch import Sketch, rounded
from classifier_training.monitoring.statistics import HIGH, LOW, NAMES, Scale, image_statistics, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[np.floating], NDArray[np.floating] | None]]
    """Pixels [B, H, W, 3] to calibrated probabilities [B, K] and novelty scores [B]."""

    Fit = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    """Pixels [h, w, 3] to those of the network's input [H, W, 3]."""

MAX_CHANGED = 200
"""Validation images of which changed copies are looked at."""

NUM_CHANGES = sum(len(strengths) for strengths in STRENGTHS.values())

SHRINK = 10.0
"""Images of all classes that the mean of each class is drawn to."""

MIN_DEVIATION = 0.005
"""Of a statistic that hardly varies on the validation images, as a share of its range."""

BATCH_SIZE = 16
SEED = 0


@dataclass(frozen=True, eq=False)
class Response:
    """What a known change did to the validation images.

    Args:
        kind: of `corruptions.STRENGTHS`.
        strength: in the unit of the kind.
        number: of images.
        shift: change of the mean of each statistic [F].
        accuracy: change of the accuracy on these images.
    """

    kind: str
    strength: float
    number: int
    shift: Floats
    accuracy: float


@dataclass(frozen=True, eq=False)
class Reference:
    """The validation predictions of a model, as a sketch and what comparing with it needs.

    Args:
        sketch: of the validation predictions; its model is empty, for it is part of the model's bundle.
        correct: how many of them were correct.
        class_means: mean of each statistic by predicted class [K, F], drawn to the mean of all where there are few.
        covariance: of the statistics within the predicted classes [F, F].
        novelty: scale of the novelty scores; None for a model without them.
        responses: to known changes.
    """

    sketch: Sketch
    correct: int
    class_means: Floats
    covariance: Floats
    novelty: Scale | None
    responses: tuple[Response, ...]

    @property
    def accuracy(self) -> float:
        """Accuracy on the validation images."""
        return self.correct / max(self.sketch.number, 1)

    @property
    def deviations(self) -> Floats:
        """Standard deviation of each statistic within the predicted classes [F]; 0 where it does not vary."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def scale(self) -> Floats:
        """The deviations that effects are multiples of: none is so small that rounding is an effect [F]."""
        return np.asarray(np.maximum(self.deviations, MIN_DEVIATION * (HIGH - LOW)))

    @classmethod
    def fit(
        cls,
        class_names: Sequence[str],
        image: NDArray[np.floating],
        probabilities: NDArray[np.floating],
        novelty: NDArray[np.floating] | None,
        threshold: float | None,
        targets: NDArray[np.int64],
        responses: tuple[Response, ...] = (),
    ) -> Reference:
        """Sum up validation predictions.

        Args:
            class_names: [K].
            image: statistics of the images [N, number of `IMAGE_STATISTICS`].
            probabilities: calibrated [N, K].
            novelty: scores [N]; None for a model without them.
            threshold: of the novelty score.
            targets: true classes [N].
            responses: to known changes; see `measure_responses`.
        """
        num_classes = len(class_names)
        scale = None if novelty is None or threshold is None else Scale(float(np.median(novelty)), threshold)
        values = np.clip(values_of(image, probabilities, novelty, scale), LOW, HIGH)
        sketch = Sketch("", tuple(class_names))
        sketch.add(probabilities, values, np.zeros(len(values), bool))
        predicted = probabilities.argmax(axis=1)
        means = np.nan_to_num(sketch.means)
        filled = np.where(np.isfinite(values), values, means)
        sums = np.zeros((num_classes, len(NAMES)))
        np.add.at(sums, predicted, filled)
        class_means = (sums + SHRINK * means) / (sketch.predicted + SHRINK)[:, None]
        rest = filled - class_means[predicted]
        covariance = rest.T @ rest / max(len(values) - 1, 1)
        correct = int((predicted == targets).sum())
        return cls(sketch, correct, class_means, covariance, scale, responses)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "sketch": self.sketch.to_dict(),
            "correct": self.correct,
            "class_means": rounded(self.class_means),
            "covariance": rounded(self.covariance),
            "novelty": None if self.novelty is None else [self.novelty.median, self.novelty.threshold],
            "responses": [
                {
                    "kind": one.kind,
                    "strength": one.strength,
                    "number": one.number,
                    "shift": rounded(one.shift),
                    "accuracy": rounded(one.accuracy),
                }
                for one in self.responses
            ],
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Reference:
        """Read what `to_dict` gave.

        Raises:
            ValueError, KeyError, TypeError: when it is something else, or of another version.
        """
        return cls(
            Sketch.from_dict(found["sketch"]),
            int(found["correct"]),
            np.array(found["class_means"], np.float64),
            np.array(found["covariance"], np.float64),
            None if found["novelty"] is None else Scale(*found["novelty"]),
            tuple(
                Response(
                    one["kind"], one["strength"], one["number"], np.array(one["shift"], np.float64), one["accuracy"]
                )
                for one in found["responses"]
            ),
        )


def measure_responses(
    images: Iterable[tuple[NDArray[np.uint8], int]],
    fit: Fit,
    predict: Predict,
    scale: Scale | None,
    *,
    num_threads: int = 1,
) -> tuple[Response, ...]:
    """Measure what known changes do to images: the statistics, and the accuracy.

    Images are changed before they are resized, as those in use are.

    Args:
        images: pixels [h, w, 3] and true classes; large ones cost more.
        fit: resizes pixels to the network's input.
        predict: what the model says of a batch.
        scale: of the novelty scores.
        num_threads: changes that are measured at the same time; `fit` and `predict` are called in these threads.
    """
    changes = [(kind, strength) for kind, strengths in STRENGTHS.items() for strength in strengths]
    sums, lost, number = np.zeros((len(changes), len(NAMES))), np.zeros(len(changes)), 0
    with ThreadPoolExecutor(num_threads) as pool:
        for batch in _batches(images):
            measure = partial(_changed, batch, number, fit, predict, scale)
            (before, correct), *found = pool.map(measure, [None, *changes])
            number += len(batch)
            for place, (after, still) in enumerate(found):
                sums[place] += np.nan_to_num(after - before).sum(axis=0)
                lost[place] += int(still.sum()) - int(correct.sum())
    return tuple(
        Response(kind, strength, number, total / max(number, 1), float(change / max(number, 1)))
        for (kind, strength), total, change in zip(changes, sums, lost, strict=True)
    )


def _batches(images: Iterable[tuple[NDArray[np.uint8], int]]) -> Iterator[list[tuple[NDArray[np.uint8], int]]]:
    remaining = iter(images)
    while batch := list(islice(remaining, BATCH_SIZE)):
        yield batch


def _changed(
    batch: Sequence[tuple[NDArray[np.uint8], int]],
    first: int,
    fit: Fit,
    predict: Predict,
    scale: Scale | None,
    change: tuple[str, float] | None,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Statistics [B, F] of images after a change, None for no change, and whether each is classified correctly [B].

    The noise is that of the number of the image, whichever thread measures it.
    """
    shown = []
    for number, (pixels, _) in enumerate(batch, start=first):
        if change is not None:
            kind, strength = change
            (pixels,) = corrupt(pixels[None], kind, strength, np.random.default_rng((SEED, number)))
        shown.append(fit(pixels))
    inputs = np.stack(shown)
    probabilities, novelty = predict(inputs)
    values = values_of(image_statistics(inputs), probabilities, novelty, scale)
    targets = np.array([target for _, target in batch])
    return np.clip(values, LOW, HIGH), probabilities.argmax(axis=1) == targets
