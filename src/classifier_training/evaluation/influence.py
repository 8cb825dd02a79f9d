"""What training images have to do with a prediction: a logistic head on stored features, fitted again without them.

The effect of an image is approximated by influence functions (Koh & Liang 2017, arXiv:1703.04730). The set whose
removal changes a prediction is gathered greedily, the head fitted again after each step (Yang, Jain & Wallace 2023,
arXiv:2302.02169), and is then made smaller. What is reported was verified by a fit, never by the approximation alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.types import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""L2 penalties that are tried, for features of unit variance, from the strongest on."""

MAX_STEPS = 200
"""Of L-BFGS; every fit starts where another one ended."""

MAX_DIMENSIONS = 256
"""Principal directions of the features that the head is shown; the rest has little variance, and would take time."""

MAX_CHANGED = 20
"""Training images up to which a set is looked for."""

Change = Literal["remove", "relabel"]


@dataclass(frozen=True)
class Flip:
    """Training images whose change makes a prediction right.

    Args:
        rows: their places, those with the largest effect first.
        probability: of the true class after the change.
    """

    rows: tuple[int, ...]
    probability: float


@dataclass(frozen=True)
class LogisticHead:
    """Softmax regression on features: the mean cross-entropy plus penalty / 2 * |W|^2, made small over all images.

    Args:
        features: of the training images, as `projected` gives them, float32 [N, P].
        targets: their class numbers, int64 [N].
        num_classes: K.
        penalty: on the weights; the biases have none.
        mean: of the features as they were given [D].
        directions: what features without their mean are multiplied by [D, P].
        start: weights and, in the last column, biases to start from, float32 [K, P + 1]; zeros when left out.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.int64]
    num_classes: int
    penalty: float
    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    start: NDArray[np.float32] | None = None

    @cached_property
    def solution(self) -> NDArray[np.float32]:
        """Weights and, in the last column, biases, fitted to all images [K, P + 1]."""
        return self.fit(self.targets, np.ones(len(self.targets), dtype=np.float32), self.start)

    def projected(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Features [M, D] as the head is shown them, [M, P]: of unit variance, in their principal directions."""
        return np.asarray((features.astype(np.float32) - self.mean) @ self.directions)

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits of features as they were given, float32 [M, K]."""
        return _logits(self.solution, self.projected(features))

    def fit(
        self, targets: NDArray[np.int64], weights: NDArray[np.float32], start: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Fit to the images with other labels [N] or weights [N]; a weight of 0 leaves one out. Returns [K, P + 1]."""
        from scipy.optimize import minimize
        from threadpoolctl import threadpool_limits

        shape = (self.num_classes, self.features.shape[1] + 1)
        shares = (weights / weights.sum())[:, None]
        wanted = np.eye(self.num_classes, dtype=np.float32)[targets]

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            found = flat.reshape(shape).astype(np.float32)
            logits = _logits(found, self.features)
            logits -= logits.max(axis=1, keepdims=True)
            powers = np.exp(logits)
            sums = powers.sum(axis=1, keepdims=True)
            losses = np.log(sums[:, 0]) - (logits * wanted).sum(axis=1)
            slopes = (powers / sums - wanted) * shares
            inner = found[:, :-1]
            gradient = np.empty(shape)
            gradient[:, :-1] = slopes.T @ self.features + self.penalty * inner
            gradient[:, -1] = slopes.sum(axis=0)
            value = float(losses.astype(np.float64) @ shares[:, 0]) + self.penalty / 2 * float(np.square(inner).sum())
            return value, gradient.ravel()

        first = np.zeros(shape) if start is None else start
        options = {"maxiter": MAX_STEPS, "gtol": 1e-5, "ftol": 1e-9}
        # Several threads wait for each other at every product, for longer than it takes where cores are busy.
        with threadpool_limits(1, user_api="blas"):
            ended = minimize(loss, first.ravel(), jac=True, method="L-BFGS-B", options=options)
        return np.asarray(ended.x.reshape(shape), dtype=np.float32)

    def effects(
        self,
        query: NDArray[np.float32],
        true: int,
        rival: int,
        change: Change,
        *,
        solution: NDArray[np.float32],
        targets: NDArray[np.int64],
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Approximate what a change of each image does to the query's logit of `rival` minus that of `true` [N].

        Args:
            query: features as the head is shown them [P].
            true: class that should win.
            rival: class that should lose.
            change: remove, or relabel as `true`.
            solution: the head that was fitted [K, P + 1].
            targets: labels that it was fitted to [N].
            weights: of the images [N].
        """
        direction = np.zeros_like(solution)
        direction[rival], direction[true] = np.append(query, 1), -np.append(query, 1)
        shares = softmax(_logits(solution, self.features))
        solved = _logits(self._solve(direction, shares, weights), self.features)
        rows = np.arange(len(targets))
        if change == "remove":
            gradients = shares.copy()
            gradients[rows, targets] -= 1
            found = (gradients * solved).sum(axis=1)
        else:
            found = solved[:, true] - solved[rows, targets]
        return np.asarray(found / weights.sum(), dtype=np.float32)

    def _solve(
        self, direction: NDArray[np.float32], shares: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Multiply by the inverse of the loss's Hessian, by conjugate gradients: nothing of its size is made."""
        from scipy.sparse.linalg import LinearOperator, cg

        shape = direction.shape
        parts = (weights / weights.sum())[:, None]

        def product(flat: NDArray[np.float32]) -> NDArray[np.float32]:
            vector = flat.reshape(shape).astype(np.float32)
            change = _logits(vector, self.features)
            change = shares * (change - (shares * change).sum(axis=1, keepdims=True)) * parts
            found = np.empty(shape, dtype=np.float32)
            found[:, :-1] = change.T @ self.features + self.penalty * vector[:, :-1]
            # All biases may grow alike without any effect; a little weight keeps that direction at 0.
            found[:, -1] = change.sum(axis=0) + 1e-6 * vector[:, -1]
            return found.ravel()

        operator = LinearOperator((direction.size, direction.size), matvec=product, dtype=np.float32)
        solved, _ = cg(operator, direction.ravel(), rtol=1e-3, maxiter=MAX_STEPS)
        return np.asarray(solved.reshape(shape), dtype=np.float32)

    def find_flip(
        self,
        query: NDArray[np.floating],
        true: int,
        change: Change,
        *,
        without: Sequence[int] = (),
        max_changed: int = MAX_CHANGED,
    ) -> Flip | None:
        """Find few training images whose removal, or whose relabelling as the true class, makes a prediction right.

        Args:
            query: features of the wrongly predicted image, as they were given [D].
            true: class that it is of.
            change: what is done to the training images.
            without: places of images that stay as they are.
            max_changed: of the set.

        Returns:
            The set, verified by a fit; one without rows where the head is right already; None where no set of that size
            was found, which does not prove that there is none.
        """
        point = self.projected(query[None])[0]
        state = _State(self.solution, self.targets.copy(), np.ones(len(self.targets), dtype=np.float32))
        if state.gap(point, true) < 0:
            return Flip((), state.probability(point, true))
        chosen: list[int] = []
        while len(chosen) < max_changed:
            effects = self.effects(
                point,
                true,
                state.rival(point, true),
                change,
                solution=state.solution,
                targets=state.targets,
                weights=state.weights,
            )
            effects[[*chosen, *without]] = 0
            order = np.argsort(effects, kind="stable")
            order = order[effects[order] < 0][: max_changed - len(chosen)]
            if not len(order):
                return None
            # Half of those that should be enough: after a fit the others may count for more, or others than they.
            enough = np.flatnonzero(np.cumsum(effects[order]) < -state.gap(point, true))
            number = (int(enough[0]) + 2) // 2 if len(enough) else (len(order) + 1) // 2
            chosen += order[:number].tolist()
            state = self._changed(chosen, true, change, state.solution)
            if state.gap(point, true) < 0:
                return self._smaller(chosen, point, true, change, state)
        return None

    def _changed(self, rows: Sequence[int], true: int, change: Change, start: NDArray[np.float32]) -> _State:
        targets, weights = self.targets.copy(), np.ones(len(self.targets), dtype=np.float32)
        if change == "remove":
            weights[list(rows)] = 0
        else:
            targets[list(rows)] = true
        return _State(self.fit(targets, weights, start), targets, weights)

    def _smaller(self, rows: list[int], point: NDArray[np.float32], true: int, change: Change, state: _State) -> Flip:
        """Leave out of a set what it does not need, the last first."""
        for row in reversed(rows):
            rest = [other for other in rows if other != row]
            if not rest:
                break
            other = self._changed(rest, true, change, state.solution)
            if other.gap(point, true) < 0:
                rows, state = rest, other
        return Flip(tuple(rows), state.probability(point, true))


@dataclass(frozen=True)
class _State:
    """A fitted head, and what it was fitted to."""

    solution: NDArray[np.float32]
    targets: NDArray[np.int64]
    weights: NDArray[np.float32]

    def rival(self, point: NDArray[np.float32], true: int) -> int:
        """The most probable class but for the true one."""
        logits = _logits(self.solution, point[None])[0]
        logits[true] = -np.inf
        return int(logits.argmax())

    def gap(self, point: NDArray[np.float32], true: int) -> float:
        """Logit of the rival minus that of the true class; below 0 the prediction is right."""
        logits = _logits(self.solution, point[None])[0]
        return float(logits[self.rival(point, true)] - logits[true])

    def probability(self, point: NDArray[np.float32], true: int) -> float:
        """Of the true class."""
        return float(softmax(_logits(self.solution, point[None]))[0, true])


def _logits(solution: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(features @ solution[:, :-1].T + solution[:, -1], dtype=np.float32)


def _principal_directions(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Matrix [D, P] that brings centred features [N, D] to unit variance, and then to their principal directions.

    Penalties on weights are the same in rotated features, so that only what is left out changes the head.
    """
    from scipy.linalg import eigh

    spread = values.std(axis=0)
    # A feature that never changes says nothing.
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0).astype(np.float32)
    number, width = values.shape
    kept = min(MAX_DIMENSIONS, number, width)
    scaled = values * scale
    if number < width:
        side = scaled @ scaled.T
        lengths, vectors = eigh(side, subset_by_index=(number - kept, number - 1))
        vectors = scaled.T @ (vectors / np.sqrt(np.maximum(lengths, 1e-6)))
    else:
        _, vectors = eigh(scaled.T @ scaled, subset_by_index=(width - kept, width - 1))
    return np.asarray(scale[:, None] * vectors, dtype=np.float32)


def fit_head(
    train: NDArray[np.floating],
    targets: NDArray[np.int64],
    val: NDArray[np.floating],
    val_targets: NDArray[np.int64],
    *,
    num_classes: int,
) -> LogisticHead:
    """Fit a head for a row of penalties, and keep the strongest whose loss is within a standard error of the least.

    Args:
        train: features of the training images, float [N, D].
        targets: int64 [N].
        val: features of the validation images [M, D], which choose the penalty.
        val_targets: int64 [M].
        num_classes: K.
    """
    values = train.astype(np.float32)
    mean = values.mean(axis=0)
    values -= mean
    directions = _principal_directions(values)
    values = values @ directions
    heads: list[LogisticHead] = []
    losses: list[NDArray[np.float64]] = []
    start: NDArray[np.float32] | None = None
    for penalty in PENALTIES:
        head = LogisticHead(values, targets, num_classes, penalty, mean, directions, start)
        start = head.solution
        heads.append(head)
        shares = softmax(head.logits(val)).astype(np.float64)
        losses.append(-np.log(np.maximum(shares[np.arange(len(val)), val_targets], 1e-12)))
        if losses[-1].mean() > 1.1 * min(loss.mean() for loss in losses):
            break
    least = min(losses, key=lambda loss: float(loss.mean()))
    for head, loss in zip(heads, losses, strict=True):
        worse = loss - least
        if worse.mean() <= worse.std() / np.sqrt(len(worse)):
            return head
    raise AssertionError("the least is as low as itself")
