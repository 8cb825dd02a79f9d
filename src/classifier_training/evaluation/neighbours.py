"""Nearest neighbours among feature vectors: exact, in chunks, so that memory stays flat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 4096
"""Vectors that are compared with as many others at once; their similarities take 64 MiB."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest vectors of each query, the nearest first.

    Args:
        rows: their places among the features, int64 [M, k].
        similarities: cosines, float32 [M, k].
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]


def unit_vectors(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return vectors [N, D] at length 1, float32; one of zeros stays so."""
    wide = values.astype(np.float32)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def nearest(features: NDArray[np.floating], queries: NDArray[np.floating], k: int) -> Neighbours:
    """Find the features with the largest cosine to each query.

    A query that is among the features finds itself, or a copy of itself; ask for one more and leave it out.

    Args:
        features: to search, float [N, D].
        queries: float [M, D].
        k: how many; all where there are fewer.
    """
    k = min(k, len(features))
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    found = np.zeros((len(queries), 0), dtype=np.float32)
    for start in range(0, len(features), CHUNK):
        part = unit_vectors(features[start : start + CHUNK])
        kept_rows, kept = [], []
        for first in range(0, max(len(queries), 1), CHUNK):
            chosen = slice(first, first + CHUNK)
            similar = np.concatenate([found[chosen], unit_vectors(queries[chosen]) @ part.T], axis=1)
            own = np.broadcast_to(np.arange(start, start + len(part)), (len(similar), len(part)))
            places = _largest(similar, k)
            kept.append(np.take_along_axis(similar, places, axis=1))
            kept_rows.append(np.take_along_axis(np.concatenate([rows[chosen], own], axis=1), places, axis=1))
        rows, found = np.concatenate(kept_rows), np.concatenate(kept)
    return Neighbours(rows, found)


def _largest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k largest values of each row, the largest first [M, k]."""
    if k < values.shape[1]:
        some = np.sort(np.argpartition(-values, k - 1, axis=1)[:, :k], axis=1)
    else:
        some = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, some, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(some, order, axis=1), dtype=np.int64)
