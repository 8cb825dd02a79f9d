"""The rule behind data.image_size=auto."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import draw_picture

from classifier_training.data.formats.image_folder import ImageFolder
from classifier_training.data.image_settings import TRAINED_FACTOR, choose_image_size
from classifier_training.data.load import load_data


def chosen(*short_sides: int, own: int = 224, is_trained: bool = True, smallest: int = 32) -> int:
    sizes = np.array([(2 * side, side) for side in short_sides], dtype=np.int64).reshape(-1, 2)
    return choose_image_size(own, sizes, is_trained=is_trained, takes=lambda side: side >= smallest).side


@pytest.mark.parametrize("is_trained", [True, False])
def test_images_as_large_as_the_networks_own_size_have_it(is_trained: bool) -> None:
    assert chosen(224, is_trained=is_trained) == chosen(1080, is_trained=is_trained) == 224
    assert chosen(300, own=299, is_trained=is_trained) == 299
    # Without a size that is known, nothing is known of the images.
    assert chosen(is_trained=is_trained) == 224


def test_random_weights_see_small_images_as_they_are() -> None:
    assert [chosen(side, is_trained=False) for side in (8, 28, 32, 33, 64, 100, 192, 193, 223)] == [
        32, 32, 32, 64, 64, 128, 192, 224, 224,
    ]  # fmt: skip
    assert chosen(100, own=128, is_trained=False) == 128
    assert chosen(120, own=100, is_trained=False) == 100


def test_trained_weights_see_small_images_enlarged_but_never_beyond_their_own_size() -> None:
    assert chosen(32) == 32 * TRAINED_FACTOR
    assert chosen(28) == 32 * round(np.ceil(28 * TRAINED_FACTOR / 32))
    assert chosen(200) == 224
    assert chosen(33, own=64) == 64


def test_the_median_of_the_short_sides_counts() -> None:
    assert chosen(32, 32, 500, is_trained=False) == 32
    assert chosen(32, 60, is_trained=False) == 64
    wide = np.array([(500, 40), (40, 500)], dtype=np.int64)
    assert choose_image_size(224, wide, is_trained=False, takes=lambda _: True).side == 64


def test_a_size_that_the_network_does_not_take_is_raised_at_most_to_its_own() -> None:
    assert chosen(20, is_trained=False, smallest=75) == 96
    assert chosen(20, is_trained=False, smallest=1000) == 224


def test_the_reason_names_the_sizes() -> None:
    sizes = np.full((3, 2), 32)
    found = choose_image_size(224, sizes, is_trained=False, takes=lambda _: True)
    assert str(found) == (
        "32 px (images are 32 px at their short side; the network's own 224 px would enlarge them 7.0 times; random "
        "weights)"
    )
    assert "accepts no smaller" in str(choose_image_size(224, sizes, is_trained=False, takes=lambda _: False))
    assert str(choose_image_size(32, sizes, is_trained=True, takes=lambda _: True)) == (
        "32 px (the network's own; images are 32 px at their short side)"
    )


def test_the_sizes_are_those_of_the_training_split(tmp_path: Path) -> None:
    for split, size in (("train", (30, 20)), ("val", (70, 90))):
        for number, name in enumerate(("a", "b")):
            draw_picture(tmp_path / split / name / "0.png", (1, 2, 3), seed=number + len(split), size=size)
    loaded = load_data(ImageFolder(root=str(tmp_path)), seed=0)
    assert loaded.training_sizes.tolist() == [[30, 20]] * 2
    assert len(loaded.image_sizes) == 4
