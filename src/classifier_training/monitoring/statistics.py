"""A few numbers of an image that a change of the camera, the light or the file moves, each in a way of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]


class Statistic(NamedTuple):
    """A number of an image.

    Args:
        name: in files and tables.
        low: values below count as this.
        high: values above count as this.
        words: what it measures.
    """

    name: str
    low: float
    high: float
    words: str


IMAGE_STATISTICS = (
    Statistic("brightness", 0.0, 1.0, "mean luma"),
    Statistic("contrast", 0.0, 0.5, "standard deviation of the luma"),
    Statistic("dark", 0.0, 1.0, "share of pixels darker than 5 % of white"),
    Statistic("bright", 0.0, 1.0, "share of pixels brighter than 95 % of white"),
    Statistic("sharpness", -9.0, 0.0, "logarithm of the mean absolute Laplacian of the luma"),
    Statistic("noise", -9.0, -1.0, "logarithm of the noise level in the flattest half of the image"),
    Statistic("fine_detail", -3.0, 3.0, "logarithm of the Laplacian at full over that at half resolution"),
    Statistic("saturation", 0.0, 1.0, "mean saturation"),
    Statistic("red", -0.5, 0.5, "mean of red less luma"),
    Statistic("blue", -0.5, 0.5, "mean of blue less luma"),
)
"""Computed from the pixels that the network is shown."""

MODEL_STATISTICS = (
    Statistic("confidence", 0.0, 1.0, "calibrated probability of the predicted class"),
    Statistic("novelty", -1.0, 3.0, "novelty score, 0 at the median of the validation images and 1 at the threshold"),
    Statistic("unlike", 0.0, 1.0, "whether the novelty score is above its threshold"),
)
"""Computed from the prediction."""

STATISTICS = (*IMAGE_STATISTICS, *MODEL_STATISTICS)
NAMES = tuple(statistic.name for statistic in STATISTICS)
CONFIDENCE, NOVELTY, UNLIKE = NAMES.index("confidence"), NAMES.index("novelty"), NAMES.index("unlike")
LOW = np.array([statistic.low for statistic in STATISTICS])
HIGH = np.array([statistic.high for statistic in STATISTICS])

LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)
"""Weights of red, green and blue (ITU-R BT.601)."""

MAX_SIDE = 96
"""Of the part in the middle of an image that is looked at, so that large inputs cost no more."""

DARK, BRIGHT = 0.05, 0.95
TINY = 1e-4
"""Added before a logarithm: less than a fortieth of a grey level."""


def image_statistics(pixels: NDArray[np.uint8]) -> Floats:
    """Return the image statistics of a batch.

    Noise is the estimate of Immerkaer (1996, doi:10.1006/cviu.1996.0060), whose mask ignores edges, over the half of
    the image where it is weakest, so that texture counts for less.

    Args:
        pixels: as the network is to see them, uint8 [B, H, W, 3], RGB.

    Returns:
        float32 [B, number of `IMAGE_STATISTICS`].
    """
    height, width = pixels.shape[1:3]
    top, left = max(0, (height - MAX_SIDE) // 2), max(0, (width - MAX_SIDE) // 2)
    part = pixels[:, top : top + MAX_SIDE, left : left + MAX_SIDE].astype(np.float32) / np.float32(255)
    luma = np.asarray(part @ LUMA, dtype=np.float32)
    flat = luma.reshape(len(luma), -1)
    laplacian = _laplacian(luma)
    even = luma[:, : luma.shape[1] // 2 * 2, : luma.shape[2] // 2 * 2]
    corners = even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
    half = np.asarray(corners / 4, dtype=np.float32)
    fine = np.abs(laplacian).reshape(len(luma), -1).mean(axis=1)
    coarse = np.abs(_laplacian(half)).reshape(len(luma), -1).mean(axis=1)
    highest = part.max(axis=3)
    saturation = (highest - part.min(axis=3)) / np.maximum(highest, TINY)
    colours = part.reshape(len(part), -1, 3).mean(axis=1)
    mean = flat.mean(axis=1)
    columns = (
        mean,
        flat.std(axis=1),
        (flat < DARK).mean(axis=1),
        (flat > BRIGHT).mean(axis=1),
        np.log(fine + TINY),
        np.log(_noise(luma) + TINY),
        np.log((fine + TINY) / (coarse + TINY)),
        saturation.reshape(len(part), -1).mean(axis=1),
        colours[:, 0] - mean,
        colours[:, 2] - mean,
    )
    return np.stack(columns, axis=1).astype(np.float32)


def shown_pixels(inputs: Floats, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the pixels of network inputs, float32 [B, 3, H, W]: what `Preprocessing.normalize` was given."""
    step = 1 if preprocessing.channel_order == "rgb" else -1
    mean, std = (
        np.array(values[::step], dtype=np.float32)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
    )
    pixels = np.clip(np.rint((inputs * std + mean) * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, 1, 3)[..., ::step])


@dataclass(frozen=True)
class Scale:
    """How novelty scores are written: 0 at the median of the validation images and 1 at the threshold.

    Args:
        median: score of the validation images.
        threshold: above which an image counts as unlike the training images.
    """

    median: float
    threshold: float

    @property
    def _width(self) -> float:
        return max(self.threshold - self.median, 1e-12)

    def __call__(self, scores: NDArray[np.floating]) -> Doubles:
        """Return scores [N] on this scale."""
        return np.asarray((scores.astype(np.float64) - self.median) / self._width)


def values_of(
    image: NDArray[np.floating],
    probabilities: NDArray[np.floating],
    novelty: NDArray[np.floating] | None,
    scale: Scale | None,
) -> Doubles:
    """Return all statistics of predictions, NaN where one is not known [N, F].

    Args:
        image: statistics of the images [N, number of `IMAGE_STATISTICS`].
        probabilities: calibrated [N, K].
        novelty: scores [N]; None where there are none.
        scale: of the scores.
    """
    nothing = np.full(len(probabilities), np.nan)
    places = nothing if novelty is None or scale is None else scale(novelty)
    unlike = nothing if novelty is None or scale is None else (places > 1).astype(np.float64)
    return np.column_stack([image, probabilities.max(axis=1), places, unlike])


def _laplacian(luma: Floats) -> Floats:
    """Four times each pixel less its neighbours, without the border."""
    if min(luma.shape[1:]) < 3:
        return np.zeros((len(luma), 1, 1), dtype=np.float32)
    middle = luma[:, 1:-1, 1:-1]
    return 4 * middle - luma[:, :-2, 1:-1] - luma[:, 2:, 1:-1] - luma[:, 1:-1, :-2] - luma[:, 1:-1, 2:]


def _noise(luma: Floats) -> Floats:
    """Standard deviation of the noise [B], in units of white."""
    if min(luma.shape[1:]) < 3:
        return np.zeros(len(luma), dtype=np.float32)
    rows = luma[:, :-2] - 2 * luma[:, 1:-1] + luma[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    values = np.abs(both.reshape(len(luma), -1))
    half = max(1, values.shape[1] // 2)
    # The lower half of the absolute values of normal noise of deviation 6 sigma has a mean of 0.3248 * 6 sigma.
    return np.asarray(np.partition(values, half - 1, axis=1)[:, :half].mean(axis=1) / (6 * 0.3248), dtype=np.float32)
