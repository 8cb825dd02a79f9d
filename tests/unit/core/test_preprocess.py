from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from classifier_training.core.errors import UserError
from classifier_training.core.preprocess import Preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


def make(policy: str = "squash", kernel: str = "bilinear", size: tuple[int, int] = (8, 8)) -> Preprocessing:
    return Preprocessing(size=size, mean=MEAN, std=STD, policy=policy, kernel=kernel)  # type: ignore[arg-type]


def halves(width: int, height: int) -> Image.Image:
    """An image whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def test_squash_keeps_both_ends() -> None:
    pixels = make().pixels(halves(80, 20))
    assert pixels.shape == (8, 8, 3)
    assert pixels[4, 0].tolist() == [255, 0, 0]
    assert pixels[4, 7].tolist() == [0, 0, 255]


def test_crop_cuts_the_sides_of_a_wide_picture() -> None:
    image = Image.new("RGB", (90, 30), "red")
    image.paste((0, 0, 255), (30, 0, 60, 30))
    # The filter reaches over the edge of the crop, so its outermost columns mix.
    assert (make("crop").pixels(image)[:, 1:-1] == (0, 0, 255)).all()


def test_letterbox_puts_black_bars_around_a_wide_picture() -> None:
    pixels = make("letterbox").pixels(Image.new("RGB", (80, 20), "white"))
    assert pixels[:, 4, 0].tolist() == [0, 0, 0, 255, 255, 0, 0, 0]


@pytest.mark.parametrize("policy", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7), (640, 480)])
def test_any_picture_fits(policy: str, kernel: str, size: tuple[int, int]) -> None:
    pixels = make(policy, kernel, (16, 12)).pixels(halves(*size))
    assert pixels.shape == (16, 12, 3)
    assert pixels.dtype == np.uint8


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = halves(8, 8)
    assert (make().pixels(image) == np.asarray(image)).all()


def test_the_tensor_is_normalized_and_channels_first() -> None:
    tensor = make().tensor(Image.new("RGB", (5, 5), (255, 0, 51)))
    assert tensor.shape == (3, 8, 8)
    assert tensor.dtype == np.float32
    assert tensor[:, 0, 0] == pytest.approx([(1 - 0.5) / 0.2, (0 - 0.4) / 0.25, (0.2 - 0.3) / 0.5], abs=1e-6)


def test_it_survives_json() -> None:
    original = make("letterbox", "area", (32, 48))
    assert Preprocessing.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_opencv_averages_areas_and_refuses_other_kernels() -> None:
    made = Preprocessing(size=(8, 8), mean=MEAN, std=STD, kernel="area", backend="opencv")
    image = halves(80, 24)
    blocks = np.asarray(image).reshape(8, 3, 8, 10, 3).mean(axis=(1, 3))
    assert (made.pixels(image) == blocks.round()).all()
    assert Preprocessing.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    with pytest.raises(UserError, match=r"backend=opencv with transforms\.kernel=bicubic"):
        Preprocessing(size=(8, 8), mean=MEAN, std=STD, kernel="bicubic", backend="opencv")


def test_channels_are_reversed_after_normalization() -> None:
    rgb = make().tensor(halves(8, 8))
    bgr = Preprocessing(size=(8, 8), mean=MEAN, std=STD, channel_order="bgr").tensor(halves(8, 8))
    assert (bgr == rgb[::-1]).all()
    assert bgr.flags["C_CONTIGUOUS"]
