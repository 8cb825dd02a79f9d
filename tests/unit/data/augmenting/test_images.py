"""Augmentations of single images: TrivialAugment, degradations and jitter, each from a sample's random numbers."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment

from classifier_training.core.types import SampleKey
from classifier_training.data.augmenting.images import (
    NUM_STRENGTHS,
    degrade,
    jitter,
    move,
    operate,
    operations,
    trivial_augment,
)
from classifier_training.data.augmenting.transforms import DRAWS, Transforms, draw_uniforms

WORSE = ("blur", "motion_blur", "downscale", "noise", "erase")


def worse(probability: float, *names: str) -> Transforms:
    settings: dict[str, Any] = dict.fromkeys(names, probability)
    return Transforms(**settings)


def picture(side: int = 64) -> NDArray[np.uint8]:
    rows = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(rows).resize((side, side), Image.Resampling.BICUBIC))


def fixed(**values: float) -> NDArray[np.float64]:
    return np.array([values.get(name, 0.5) for name in DRAWS])


@pytest.mark.parametrize("name", operations())
def test_operations_and_strengths_are_torchvisions(name: str) -> None:
    space = autoaugment.TrivialAugmentWide()._augmentation_space(NUM_STRENGTHS)
    magnitudes, signed = space[name]
    assert list(space) == list(operations())
    assert signed == operations()[name][1]
    image = Image.fromarray(picture())
    for place in (0, 7, 13, 30):
        for sign in (1, -1) if signed else (1,):
            magnitude = sign * (float(magnitudes[place]) if magnitudes.ndim else 0.0)
            expected = autoaugment._apply_op(image, name, magnitude, InterpolationMode.BILINEAR, None)
            found = operate(picture(), name, sign * place / (NUM_STRENGTHS - 1))
            assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1, place


def test_every_operation_is_drawn_as_often_and_from_the_key_alone() -> None:
    found = [draw_uniforms(0, SampleKey(0, position, 0))[DRAWS.index("trivial")] for position in range(2800)]
    counts = np.bincount((np.array(found) * len(operations())).astype(int), minlength=len(operations()))
    assert counts.min() > 150
    draws = draw_uniforms(5, SampleKey(1, 2, 3))
    assert (trivial_augment(picture(), draws) == trivial_augment(picture(), draws)).all()
    last = fixed(trivial=np.nextafter(1, 0), strength=np.nextafter(1, 0))
    assert trivial_augment(picture(), last).shape == (64, 64, 3)


def test_a_small_picture_is_not_shifted_out_of_sight() -> None:
    assert operate(picture(16), "TranslateX", 1.0).any()


def test_pictures_are_left_alone_unless_asked_for() -> None:
    assert not Transforms().degrades
    assert (degrade(picture(), fixed(), Transforms()) == picture()).all()
    never = worse(0.4, *WORSE)
    assert (degrade(picture(), fixed(motion=0.6, blur=0.6), never) == picture()).all()


@pytest.mark.parametrize("name", WORSE)
def test_each_degradation_changes_the_picture_and_follows_from_the_numbers(name: str) -> None:
    transforms = worse(1.0, name)
    assert transforms.degrades
    before = picture()
    found = degrade(before, fixed(), transforms)
    assert found.dtype == np.uint8
    assert found.shape == before.shape
    assert (found != before).any()
    assert (before == picture()).all()
    assert (found == degrade(picture(), fixed(), transforms)).all()


def test_motion_is_a_mean_along_the_row() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    for length in (2, 3, 6):
        before = (length - 1) // 2
        padded = np.pad(pixels.astype(float), ((0, 0), (before, length - 1 - before), (0, 0)), mode="edge")
        expected = np.mean([padded[:, start : start + 9] for start in range(length)], axis=0)
        assert (np.abs(move(pixels, length) - expected) <= 0.5).all()


def test_an_erased_part_has_the_area_drawn_and_one_grey() -> None:
    found = degrade(picture(), fixed(erase_grey=0.5, erase_area=1.0), Transforms(erase=1.0))
    erased = (found == 128).all(axis=2)
    assert erased.mean() == pytest.approx(0.33, abs=0.03)


def test_noise_has_the_level_drawn() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    found = degrade(grey, fixed(noise_level=0.4), Transforms(noise=1.0))
    assert found.astype(float).std() == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (3, 50)])
def test_any_picture_can_be_made_worse(size: tuple[int, int]) -> None:
    transforms = worse(1.0, *WORSE)
    for position in range(10):
        draws = draw_uniforms(0, SampleKey(0, position, 0))
        assert degrade(np.zeros((*size, 3), np.uint8), draws, transforms).shape == (*size, 3)


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
