"""Which parts of an image an answer rests on: grey squares are moved over it (Zeiler & Fergus 2014).

It asks nothing of a network but its answers, so it works on every exported file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.types import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
"""Inputs, float32 [B, 3, H, W] -> logits, float32 [B, K]."""

NUM_PLACES = 8
"""Places of the square along each side."""

REACH = 2
"""Width of the square in places: neighbours overlap, so that nothing is cut in two everywhere."""

BATCH_SIZE = 32


def occlusion_map(run: Run, image: NDArray[np.float32], answer: int) -> NDArray[np.float32]:
    """Return by how much the answer's probability falls when a place is hidden, float32 [P, P].

    A place's value is the mean over the squares that hide it; below 0 the image is surer without it.

    Args:
        run: the network.
        image: a preprocessed input, float32 [3, H, W]; the square takes the image's mean.
        answer: number of the class that was answered.
    """
    _, height, width = image.shape
    num_places = min(NUM_PLACES, height, width)
    rows, columns = (np.linspace(0, side, num_places + 1).round().astype(int) for side in (height, width))
    corners = [
        (row, column) for row in range(1 - REACH, num_places) for column in range(1 - REACH, num_places)
    ]  # fmt: skip
    hidden = np.repeat(image[None], len(corners), axis=0)
    grey = image.mean(axis=(1, 2))[:, None, None]
    for number, (row, column) in enumerate(corners):
        top, bottom = rows[max(row, 0)], rows[min(row + REACH, num_places)]
        left, right = columns[max(column, 0)], columns[min(column + REACH, num_places)]
        hidden[number, :, top:bottom, left:right] = grey
    inputs = np.concatenate([image[None], hidden])
    logits = np.concatenate([run(inputs[start : start + BATCH_SIZE]) for start in range(0, len(inputs), BATCH_SIZE)])
    shares = softmax(logits)[:, answer]
    falls = shares[0] - shares[1:]
    total, times = np.zeros((num_places, num_places)), np.zeros((num_places, num_places))
    for (row, column), fall in zip(corners, falls, strict=True):
        place = (slice(max(row, 0), row + REACH), slice(max(column, 0), column + REACH))
        total[place] += fall
        times[place] += 1
    return np.asarray(total / times, dtype=np.float32)
