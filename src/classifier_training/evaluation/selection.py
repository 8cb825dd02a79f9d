"""Which unlabelled images are worth labelling next, for the model that predicted them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from classifier_training.evaluation.neighbours import nearest, unit_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

Strategy = Literal["random", "margin", "entropy", "k_centre", "margin_k_centre", "cluster_margin"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

NUM_CANDIDATES = 10
"""Images of the smallest margins that `cluster_margin` groups, for each that is chosen."""


@dataclass(frozen=True)
class Chosen:
    """Images to label, the most worthwhile first.

    Args:
        rows: their places among the unlabelled images, int64 [n].
        scores: what they were chosen by, float32 [n]; comparable within one strategy alone.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def margins(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Probability of the first class minus that of the second [N]: 0 for an image between two classes."""
    top = np.sort(probabilities.astype(np.float32), axis=1)
    return np.asarray(top[:, -1] - (top[:, -2] if top.shape[1] > 1 else 0))


def choose_next(
    probabilities: NDArray[np.floating],
    features: NDArray[np.floating],
    labelled: NDArray[np.floating],
    number: int,
    *,
    strategy: Strategy,
    seed: int = 0,
) -> Chosen:
    """Choose unlabelled images.

    - margin, entropy: the images that the model is least sure of (Settles 2009, "Active learning literature survey").
    - k_centre: again and again the image that is farthest from all labelled and chosen ones (Sener & Savarese 2018,
      arXiv:1708.00489).
    - margin_k_centre: the same, with the distance times 1 - margin.
    - cluster_margin: the images of small margins are grouped, and each group gives its smallest in turn, the smallest
      groups first (Citovsky et al. 2021, arXiv:2107.14263).

    Args:
        probabilities: of the model, float [N, K].
        features: of the same images, float [N, D].
        labelled: features of the images that have labels, float [M, D].
        number: to choose; all where there are fewer.
        strategy: by what.
        seed: of random and cluster_margin.
    """
    number = min(number, len(features))
    doubts = 1 - margins(probabilities)
    if strategy in ("k_centre", "margin_k_centre"):
        weights = doubts if strategy == "margin_k_centre" else np.ones_like(doubts)
        return _centres(features, labelled, weights, number)
    if strategy == "cluster_margin":
        return _by_cluster(features, doubts, number, seed)
    if strategy == "random":
        doubts = np.random.default_rng(seed).random(len(features), dtype=np.float32)
    elif strategy == "entropy":
        shares = np.maximum(probabilities.astype(np.float32), 1e-12)
        doubts = -(shares * np.log(shares)).sum(axis=1)
    rows = np.argsort(-doubts, kind="stable")[:number]
    return Chosen(rows, doubts[rows])


def _centres(
    features: NDArray[np.floating], labelled: NDArray[np.floating], weights: NDArray[np.float32], number: int
) -> Chosen:
    vectors = unit_vectors(features)
    distances = np.ones(len(vectors), dtype=np.float32)
    if len(labelled):
        distances = 1 - nearest(labelled, features, 1).similarities[:, 0]
    rows, scores = [], []
    left = np.ones(len(vectors), dtype=np.bool_)
    for _ in range(number):
        gains = np.where(left, weights * np.maximum(distances, 0), -1)
        row = int(gains.argmax())
        rows.append(row)
        scores.append(gains[row])
        left[row] = False
        distances = np.minimum(distances, 1 - vectors @ vectors[row])
    return Chosen(np.array(rows, dtype=np.int64), np.array(scores, dtype=np.float32))


def _by_cluster(features: NDArray[np.floating], doubts: NDArray[np.float32], number: int, seed: int) -> Chosen:
    from sklearn.cluster import KMeans

    candidates = np.argsort(-doubts, kind="stable")[: NUM_CANDIDATES * number]
    groups = KMeans(min(number, len(candidates)), n_init=1, random_state=seed).fit_predict(
        unit_vectors(features[candidates])
    )
    # Candidates stand in the order of their doubt, so that each group's list does, too.
    queues = sorted(([int(row) for row in candidates[groups == group]] for group in np.unique(groups)), key=len)
    rows: list[int] = []
    depth = 0
    while len(rows) < number:
        rows += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    chosen = np.array(rows[:number], dtype=np.int64)
    return Chosen(chosen, doubts[chosen])
