"""The order of an epoch: a pure function of (seed, epoch), uniform or weighted by class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from classifier_training.core.columns import CHUNK
from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import register
from classifier_training.core.settings import in_braces
from classifier_training.core.types import SampleKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


ClassName = Annotated[str, BeforeValidator(str)]
"""A class called 10 is a number to YAML and to Hydra."""


@register(group="sampler", name="disabled")
def uniform_weights(class_counts: NDArray[np.int64], class_names: Sequence[str]) -> None:
    """Every image once an epoch, in a new order."""


@register(group="sampler", name="auto")
def inverse_frequency_weights(
    class_counts: NDArray[np.int64],
    class_names: Sequence[str],  # noqa: ARG001
    *,
    power: Annotated[float, Field(gt=0, le=1)] = 1.0,
) -> NDArray[np.float64]:
    """Sample every class equally often, however rare.

    Args:
        power: degree of balancing: 1 samples all classes equally often, 0.5 is square-root sampling.
    """
    return 1.0 / np.maximum(class_counts, 1).astype(np.float64) ** power


@register(group="sampler", name="manual")
def manual_weights(
    class_counts: NDArray[np.int64],  # noqa: ARG001
    class_names: Sequence[str],
    *,
    weights: Annotated[dict[ClassName, Annotated[float, Field(ge=0)]], BeforeValidator(in_braces)],
) -> NDArray[np.float64]:
    """Sample the images of a class in proportion to its weight.

    Args:
        weights: by class name; classes left out weigh 1, as in sampler.weights={cat: 4, dog: 0.5}.

    Raises:
        UserError: when a class is not in the data, or all weights are 0.
    """
    unknown = sorted(set(weights) - set(class_names))
    if unknown:
        close = nearest(unknown[0], class_names)
        raise UserError(
            f"sampler.weights names {unknown[0]!r}, which is no class of this data",
            f"one of {enumerate_words(class_names)}",
            f"sampler.weights={{{close[0]}: {weights[unknown[0]]}}}" if close else "use the names above",
        )
    values = np.array([weights.get(name, 1.0) for name in class_names], dtype=np.float64)
    if not values.any():
        raise UserError(
            "sampler.weights are all 0", "a weight above 0 for at least one class", "sampler.weights={cat: 4, dog: 1}"
        )
    return values


def batch_sizes(num_images: int, batch_size: int, *, per_step: int = 1, smallest: int = 1) -> list[int]:
    """Divide an epoch into batches of nearly the same size, as few as the batch size allows, so that no image is left.

    A much smaller last batch would weigh as much as the others in its step, and batch norm fails on a single image. If
    even batches would be too small, the images after the last whole batch are left out instead.

    Args:
        num_images: of the epoch.
        batch_size: most images in a batch.
        per_step: batches whose gradients are accumulated for one step; if possible, every step has that many.
        smallest: fewest images in a batch.

    Returns:
        Images in each batch, the larger ones first; their sum is below `num_images` if images are left out.
    """
    fewest = -(-num_images // batch_size)
    steps = -(-num_images // (batch_size * per_step))
    number = max(fewest, min(steps * per_step, num_images // smallest))
    if num_images // number < smallest and num_images > batch_size:
        return [batch_size] * (num_images // batch_size)
    return even_parts(num_images, number)


def even_parts(total: int, number: int) -> list[int]:
    """Divide an integer into parts that differ by at most one, the larger ones first."""
    size, more = divmod(total, number)
    return [size + 1] * more + [size] * (number - more)


@dataclass(frozen=True)
class Replay:
    """Old images beside new ones.

    Args:
        is_old: which samples are old ones, bool [N].
        number: of old samples that are drawn, as many of every class as it has them.
    """

    is_old: NDArray[np.bool_]
    number: int

    @classmethod
    def of_share(cls, is_old: NDArray[np.bool_], share: float) -> Replay:
        """Draw so many old samples that they are this share of an epoch, or all of them where there are fewer."""
        num_old = int(is_old.sum())
        wanted = round(share / (1 - share) * (len(is_old) - num_old))
        return cls(is_old, min(num_old, max(wanted, 1)))

    def draw(self, targets: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw old samples, each at most once; returns their rows."""
        rows = generator.permutation(np.flatnonzero(self.is_old))
        counts = np.bincount(targets[rows])
        quotas = even_quotas(counts, self.number, generator)
        # The place of each row among those of its class.
        by_class = np.argsort(targets[rows], kind="stable")
        places = np.empty(len(rows), dtype=np.int64)
        places[by_class] = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
        drawn: NDArray[np.int64] = rows[places < quotas[targets[rows]]]
        return drawn


def even_quotas(counts: NDArray[np.int64], total: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Divide a total among classes as evenly as their counts allow; chance says which classes have one more [K]."""
    quotas = np.zeros(len(counts), dtype=np.int64)
    left = min(total, int(counts.sum()))
    while left:
        open_ones = generator.permutation(np.flatnonzero(quotas < counts))[:left]
        added = np.minimum(max(left // len(open_ones), 1), counts[open_ones] - quotas[open_ones])
        quotas[open_ones] += added
        left -= int(added.sum())
    return quotas


class EpochSampler:
    """Yields the keys of one epoch's samples.

    Args:
        targets: class of each sample, int64 [N].
        class_weights: weight of one image of each class [K]; None takes every sample once.
        seed: of the run; None keeps the samples in order, for evaluation.
        replay: old samples, of which an epoch has some; the weights then say how the others are drawn.
    """

    def __init__(
        self,
        targets: NDArray[np.int64],
        class_weights: NDArray[np.float64] | None = None,
        *,
        seed: int | None = None,
        replay: Replay | None = None,
    ) -> None:
        self._targets = targets
        self._seed = seed
        self._epoch = 0
        self._first = 0
        self._replay = replay
        self._new = np.arange(len(targets)) if replay is None else np.flatnonzero(~replay.is_old)
        self._cumulated: NDArray[np.float64] | None = None
        if class_weights is not None:
            weights = class_weights[targets[self._new]]
            self._cumulated = (weights / weights.sum()).cumsum()
            self._cumulated /= self._cumulated[-1]

    def __len__(self) -> int:
        return len(self._new) + (0 if self._replay is None else self._replay.number)

    def all_new(self, limit: int) -> EpochSampler:
        """Return a sampler of this many samples, the new ones first of all; without replay, of all samples."""
        if self._replay is None:
            return EpochSampler(self._targets, seed=self._seed)
        number = max(min(limit - len(self._new), int(self._replay.is_old.sum())), 1)
        return EpochSampler(self._targets, seed=self._seed, replay=replace(self._replay, number=number))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; Lightning calls this."""
        self._epoch = epoch

    def start_at(self, position: int) -> None:
        """Skip the first samples of the next iteration, which were used before the run was interrupted."""
        self._first = position

    @property
    def rows(self) -> NDArray[np.int64]:
        """Sample numbers of the next iteration [N]."""
        return self.order(self._epoch)

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self._epoch
        first, self._first = self._first, 0
        order = self.order(epoch)
        for start in range(first, len(order), CHUNK):
            # The numbers of a whole epoch as objects would take more memory than all columns of the data.
            for position, index in enumerate(order[start : start + CHUNK].tolist(), start=start):
                yield SampleKey(epoch, position, index)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Sample numbers of an epoch in the order they are drawn, int64 [N]."""
        if self._seed is None:
            return np.arange(len(self._targets))
        generator = np.random.default_rng([self._seed, epoch])
        number = len(self._new)
        if self._cumulated is None:
            order = generator.permutation(number)
        else:
            # What generator.choice(N, size=N, p=…) gives; sorted numbers are found five times as fast.
            uniforms = generator.random(number)
            by_size = np.argsort(uniforms)
            order = np.empty(number, dtype=np.int64)
            order[by_size] = self._cumulated.searchsorted(uniforms[by_size], side="right")
        if self._replay is None:
            return order
        return generator.permutation(np.concatenate([self._new[order], self._replay.draw(self._targets, generator)]))

    def draws(self, epoch: int, num_classes: int, *, num_images: int | None = None) -> NDArray[np.int64]:
        """Samples drawn of each class in an epoch, or among its first images, int64 [K]."""
        return np.bincount(self._targets[self.order(epoch)[:num_images]], minlength=num_classes).astype(np.int64)
