"""The numbers of an image, each moved by what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from tests.predictions import make_images

from classifier_training.core.preprocess import Preprocessing
from classifier_training.monitoring.corruptions import BLUR, NOISE, OVEREXPOSED, STRENGTHS, UNDEREXPOSED, corrupt
from classifier_training.monitoring.statistics import (
    IMAGE_STATISTICS,
    NAMES,
    Scale,
    image_statistics,
    shown_pixels,
    values_of,
)

IMAGES = make_images(40, seed=1).pixels


def means(pixels: np.ndarray) -> dict[str, float]:
    """Mean of each statistic."""
    return dict(zip(NAMES, image_statistics(pixels).mean(axis=0).tolist(), strict=False))


@pytest.mark.parametrize(
    ("kind", "name", "sign"),
    [
        (BLUR, "sharpness", -1),
        (NOISE, "noise", 1),
        (UNDEREXPOSED, "brightness", -1),
        (OVEREXPOSED, "brightness", 1),
        (OVEREXPOSED, "bright", 1),
    ],
)
def test_a_change_moves_its_statistic_and_more_the_stronger_it_is(kind: str, name: str, sign: int) -> None:
    found = [means(IMAGES)[name]]
    found += [means(corrupt(IMAGES, kind, strength, np.random.default_rng(0)))[name] for strength in STRENGTHS[kind]]
    assert (np.diff(found) * sign > -1e-3).all(), found
    assert (found[-1] - found[0]) * sign > 0.01, found


def test_every_kind_of_change_can_be_made_and_another_is_refused() -> None:
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            changed = corrupt(IMAGES, kind, strength, np.random.default_rng(0))
            assert changed.shape == IMAGES.shape
            assert not np.array_equal(changed, IMAGES)
    with pytest.raises(ValueError, match="rain"):
        corrupt(IMAGES, "rain", 1.0, np.random.default_rng(0))


def test_the_noise_of_a_flat_image_is_its_deviation() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (8, 64, 64, 1))
    grey = np.rint(np.clip(0.5 + noise, 0, 1) * 255).astype(np.uint8).repeat(3, axis=3)
    assert means(grey)["noise"] == pytest.approx(np.log(0.05), abs=0.05)


def test_an_image_of_one_grey_has_no_contrast_and_no_colour() -> None:
    found = means(np.full((1, 16, 16, 3), 51, np.uint8))
    assert found["brightness"] == pytest.approx(0.2, abs=1e-3)
    for name in ("contrast", "saturation", "red", "blue", "dark", "bright"):
        assert found[name] == pytest.approx(0, abs=1e-3), name


def test_an_image_has_the_same_statistics_in_any_batch() -> None:
    alone = np.concatenate([image_statistics(IMAGES[place : place + 1]) for place in range(8)])
    np.testing.assert_allclose(alone, image_statistics(IMAGES[:8]), atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_inputs_have_statistics(side: int) -> None:
    found = image_statistics(np.zeros((2, side, side, 3), np.uint8))
    assert found.shape == (2, len(IMAGE_STATISTICS))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_pixels_of_inputs_are_those_that_were_normalized(order: str) -> None:
    preprocessing = Preprocessing(size=(24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), channel_order=order)  # type: ignore[arg-type]
    np.testing.assert_array_equal(shown_pixels(preprocessing.normalize(IMAGES), preprocessing), IMAGES)


def test_novelty_is_0_at_the_median_1_at_the_threshold_and_unknown_without_a_score() -> None:
    shares, image = np.array([[0.9, 0.1], [0.3, 0.7]]), image_statistics(IMAGES[:2])
    found = values_of(image, shares, np.array([2.0, 6.0]), Scale(2.0, 4.0))
    np.testing.assert_allclose(found[:, -3:], [[0.9, 0, 0], [0.7, 2, 1]])
    assert np.isnan(values_of(image, shares, None, Scale(2.0, 4.0))[:, -2:]).all()
