from __future__ import annotations

import colorsys

import numpy as np
import pytest

from classifier_training.data.augmenting.jitter import jitter
from classifier_training.data.augmenting.transforms import DRAWS, Transforms

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def draws(**signed: float) -> np.ndarray:
    return np.array([(signed.get(name, 0.0) + 1) / 2 for name in DRAWS])


def settings(**strength: float) -> Transforms:
    return Transforms(backend="opencv", **{**OFF, **strength})  # type: ignore[arg-type]


def test_nothing_asked_nothing_changed() -> None:
    assert (jitter(PIXELS, draws(brightness=1, hue=1), settings()) == PIXELS).all()


def test_brightness_scales_and_clips() -> None:
    found = jitter(PIXELS, draws(brightness=1), settings(brightness=0.5))
    assert (found == np.clip(np.round(PIXELS * 1.5), 0, 255)).all()


def test_contrast_spreads_around_the_mean_grey() -> None:
    flat = np.full((4, 4, 3), 90, dtype=np.uint8)
    assert (jitter(flat, draws(contrast=1), settings(contrast=0.5)) == 90).all()
    assert jitter(PIXELS, draws(contrast=-1), settings(contrast=0.9)).std() < PIXELS.std() / 5


def test_saturation_down_is_grey() -> None:
    found = jitter(PIXELS, draws(saturation=-1), settings(saturation=0.999)).astype(int)
    assert (found.max(axis=-1) - found.min(axis=-1)).max() <= 2


@pytest.mark.parametrize("turn", [0.5, -0.25])
def test_hue_turns_the_colour_circle(turn: float) -> None:
    red = np.full((1, 1, 3), (200, 10, 10), dtype=np.uint8)
    found = jitter(red, draws(hue=turn / 0.5), settings(hue=0.5))[0, 0] / 255
    assert colorsys.rgb_to_hsv(*found)[0] == pytest.approx(turn % 1, abs=0.01)
