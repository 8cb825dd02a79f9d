"""The values that pass between floors. Arrays are NumPy wherever torch is not needed to make sense of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)

OUT_OF_FOLD = "out-of-fold"
"""In place of a split: training images of a cross-validation, each predicted by the fold that it was left out of."""

NOT_TEST = {TRAIN: "training images", VAL: "validation images", OUT_OF_FOLD: "out-of-fold images"}
"""Images that had a part in training, by split: a model is not called ready for what it does on them."""

PROBE_EPOCH = -1
"""In place of an epoch's number: the weights after the linear probe, before the first epoch."""


def epoch_name(epoch: int, share: float = 1.0) -> str:
    """Name an epoch by its number for people, the linear probe before it, or a mean of both by the epoch's share.

    Files count epochs from 0, people from 1.
    """
    name = "the linear probe" if epoch == PROBE_EPOCH else f"epoch {epoch + 1}"
    return (
        name
        if share == 1 or epoch == PROBE_EPOCH
        else f"{name} ({share:.0%}) and those before fine-tuning ({1 - share:.0%})"
    )


class SampleKey(NamedTuple):
    """Which sample to load, and all that its randomness may depend on.

    Args:
        epoch: epoch number from 0.
        position: place of the draw in the epoch's order; a sample drawn twice is augmented twice.
        row: of the split's sample table.
    """

    epoch: int
    position: int
    row: int


class Batch(NamedTuple):
    """What a loader yields.

    Args:
        images: uint8 [B, 3, H, W], RGB, not normalized: the network's shell does that on the device.
        targets: int64 [B], class numbers.
        indices: int64 [B], rows of the split's sample table.
        draws: float32 [B, D], random numbers of images that are augmented on the device; None when nothing is left
            to do.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    draws: Tensor | None = None


class StepOutput(NamedTuple):
    """What a validation or test step hands on, so that nobody needs a second forward pass.

    Args:
        logits: float32 [B, K].
        targets: int64 [B].
        indices: int64 [B].
        losses: float32 [B], plain cross-entropy of each sample: no weights, no smoothing.
    """

    logits: Tensor
    targets: Tensor
    indices: Tensor
    losses: Tensor


@dataclass(frozen=True)
class SplitResult:
    """The predictions of one network on one whole split.

    Args:
        split: train, val or test.
        logits: float32 [N, K].
        targets: int64 [N].
        indices: int64 [N], rows of the split's sample table.
        losses: float32 [N].
        metrics: name without the split's prefix to value.
        temperature: that the logits are divided by for probabilities; None where they are not.
    """

    split: str
    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    indices: NDArray[np.int64]
    losses: NDArray[np.float32]
    metrics: Mapping[str, float] = field(default_factory=dict)
    temperature: float | None = None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax of the logits, float32 [N, K]: for many samples take `probabilities_of` some at a time."""
        return self.probabilities_of(slice(None))

    def probabilities_of(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Probabilities of some samples, float32 [M, K]."""
        logits = self.logits[rows]
        return softmax(logits if self.temperature is None else logits / np.float32(self.temperature))

    @cached_property
    def confidences(self) -> NDArray[np.float32]:
        """The highest probability of each sample, float32 [N]."""
        parts = [self.probabilities_of(rows).max(axis=1) for rows in row_blocks(self.logits.shape)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each sample, int64 [N]."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)


def spread_rows(num_rows: int, number: int) -> NDArray[np.int64]:
    """Choose rows spread evenly over `num_rows`, so over the classes of a split; all where there are no more."""
    return np.unique(np.linspace(0, num_rows - 1, min(number, num_rows)).round().astype(np.int64))


@dataclass(frozen=True)
class SplitTable:
    """The samples of one split, in a fixed order.

    Args:
        name: train, val or test.
        paths: absolute image paths [N]; of a data set they are a column, whose texts are made when they are read.
        targets: int64 [N].
        groups: group of each sample [N] (session, video, player); empty strings where there is none.
    """

    name: str
    paths: Sequence[str]
    targets: NDArray[np.int64]
    groups: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def class_counts(self, num_classes: int) -> NDArray[np.int64]:
        """Samples of each class, int64 [K]."""
        return np.bincount(self.targets, minlength=num_classes).astype(np.int64, copy=False)

    def at(self, rows: NDArray[np.int64]) -> SplitTable:
        """Return some of its rows."""
        paths, groups = ([column[row] for row in rows] for column in (self.paths, self.groups))
        return SplitTable(self.name, paths, self.targets[rows], groups)


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see.

    Args:
        size: side of the square input in pixels.
        mean: per RGB channel, of pixels scaled to 0..1.
        std: per RGB channel.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Weights:
    """Trained weights that a network starts from.

    Args:
        name: as their publisher calls them, or of the file or network that they are of.
        source: where they were taken from.
        license: that they are published under; None where it is not stated.
        has_head: whether the last layer is theirs too, for classes that are the run's own.
    """

    name: str
    source: str
    license: str | None = None
    has_head: bool = False

    def __str__(self) -> str:
        terms = f"license: {self.license}" if self.license else "license not stated"
        return f"{self.name} ({self.source}; {terms})"

    def to_dict(self) -> dict[str, str | None]:
        """Return the form that goes into JSON."""
        return {"name": self.name, "source": self.source, "license": self.license}

    @classmethod
    def from_dict(cls, found: object) -> Weights | None:
        """Read what `to_dict` gave, perhaps elsewhere; None for anything else."""
        if not isinstance(found, dict):
            return None
        name, source, terms = (found.get(key) for key in ("name", "source", "license"))
        if not isinstance(name, str) or not isinstance(source, str):
            return None
        return cls(name, source, terms if isinstance(terms, str) else None)


@dataclass(frozen=True)
class BuiltModel:
    """A network that is ready to train.

    Args:
        network: float32 [B, 3, H, W] normalized -> logits float32 [B, K].
        input_spec: what it wants to see.
        architecture: its name for people and files.
        weights: trained weights that it starts from; None for random ones.
    """

    network: nn.Module
    input_spec: InputSpec
    architecture: str
    weights: Weights | None = None

    @property
    def pretrained(self) -> bool:
        """Whether it starts from trained weights."""
        return self.weights is not None


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image; the same names in every output format.

    Args:
        path: as the user wrote it.
        label: the most probable class; None when the image could not be read.
        confidence: its probability.
        top_k: the top predictions, best first.
        probabilities: of every class, when asked for.
        rejected: whether the prediction should not be relied on.
        reject_reason: why it is rejected: low_confidence, or unlike_training for an image of another kind.
        label_set: the labels that hold the true one with a stated chance, best first, when asked for.
        error: why there is no prediction.
    """

    path: str
    label: str | None = None
    confidence: float | None = None
    top_k: tuple[tuple[str, float], ...] = ()
    probabilities: Mapping[str, float] | None = None
    rejected: bool | None = None
    reject_reason: str | None = None
    error: str | None = None
    label_set: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, object]:
        """Return the form that goes into JSON."""
        row: dict[str, object] = {
            "path": self.path,
            "label": self.label,
            "confidence": self.confidence,
            "top_k": [{"label": label, "probability": value} for label, value in self.top_k],
            "rejected": self.rejected,
            "reject_reason": self.reject_reason,
            "error": self.error,
        }
        if self.probabilities is not None:
            row["probabilities"] = dict(self.probabilities)
        if self.label_set is not None:
            row["label_set"] = list(self.label_set)
        return row


MAX_BLOCK = 2**22
"""Values of an array [N, K] that are worked on at once: of large ones, no second copy is made."""


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of rows that together are all rows of an array of this shape."""
    step = max(1, MAX_BLOCK // max(shape[1], 1))
    return (slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis, shifted by its maximum so that nothing overflows."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)
