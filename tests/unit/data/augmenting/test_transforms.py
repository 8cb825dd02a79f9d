from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from classifier_training.core.errors import UserError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.types import InputSpec, SampleKey
from classifier_training.data.augmenting.augment import augment
from classifier_training.data.augmenting.images import training_pixels
from classifier_training.data.augmenting.transforms import DRAWS, Transforms, draw_uniforms
from classifier_training.data.pixel_format import PixelFormat

PLAIN = Transforms(crop_scale=1.0, brightness=0.0, contrast=0.0, saturation=0.0)
SQUASH = Preprocessing(size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))


def batch(number: int = 4, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)


def draws(number: int = 4) -> torch.Tensor:
    rows = [draw_uniforms(0, SampleKey(0, position, position)) for position in range(number)]
    return torch.from_numpy(np.stack(rows)).float()


def fixed(**values: float) -> torch.Tensor:
    """Random numbers of a batch of one that are 0.5, which changes nothing, but for those named."""
    return torch.tensor([[values.get(name, 0.5) for name in DRAWS]])


def test_random_numbers_depend_on_seed_and_key_alone_and_are_uniform() -> None:
    key = SampleKey(3, 14, 15)
    assert (draw_uniforms(1, key) == draw_uniforms(1, key)).all()
    others = [draw_uniforms(2, key), *(draw_uniforms(1, key._replace(**{name: 0})) for name in key._fields)]
    assert all((draw_uniforms(1, key) != other).any() for other in others)
    many = np.stack([draw_uniforms(0, SampleKey(0, position, 0)) for position in range(4000)])
    assert many.shape == (4000, len(DRAWS))
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean(axis=0) == pytest.approx([0.5] * len(DRAWS), abs=0.03)
    assert np.abs(np.corrcoef(many.T) - np.eye(len(DRAWS))).max() < 0.06


def test_evaluation_takes_size_and_colours_from_what_knows_them() -> None:
    spec = InputSpec(size=224, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    made = Transforms(policy="crop", kernel="area").evaluation(64, spec)
    assert (made.size, made.policy, made.kernel, made.mean) == ((64, 64), "crop", "area", spec.mean)


def test_each_backend_has_its_own_kernel_and_colour_jitter() -> None:
    spec = InputSpec(size=16, mean=(0, 0, 0), std=(1, 1, 1))
    assert Transforms().evaluation(16, spec).kernel == "bilinear"
    opencv = Transforms(backend="opencv", channel_order="bgr")
    made = opencv.evaluation(16, spec)
    assert (made.backend, made.kernel, made.channel_order) == ("opencv", "area", "bgr")
    # Its colours change image by image, in OpenCV; the batch is left alone.
    assert (augment(batch(), draws(), opencv) == batch()).all()
    with pytest.raises(UserError, match="area"):
        Transforms(backend="opencv", kernel="bilinear")


@pytest.mark.parametrize("policy", ["squash", "crop", "letterbox"])
def test_without_a_crop_training_sees_what_evaluation_sees(policy: str) -> None:
    image = Image.fromarray(batch(1, 40)[0].permute(1, 2, 0).numpy())
    made = Preprocessing(size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), policy=policy)  # type: ignore[arg-type]
    kept = PixelFormat(preprocessing=made).pixels(image)
    assert (training_pixels(kept, made, 1.0, np.full(len(DRAWS), 0.1)) == made.pixels(image)).all()


@pytest.mark.parametrize("policy", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (200, 90)])
def test_a_crop_fits_any_picture(policy: str, size: tuple[int, int]) -> None:
    made = Preprocessing(size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), policy=policy)  # type: ignore[arg-type]
    for position in range(20):
        uniforms = draw_uniforms(0, SampleKey(0, position, 0))
        kept = PixelFormat(preprocessing=made, crop_scale=0.2).pixels(Image.new("RGB", size))
        assert training_pixels(kept, made, 0.2, uniforms).shape == (16, 16, 3)


def test_a_crop_keeps_its_share_of_the_area() -> None:
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(100)[None, :] * 2, np.arange(100)[:, None] * 2
    shares = []
    for position in range(300):
        seen = training_pixels(ramp, SQUASH, 0.5, draw_uniforms(0, SampleKey(0, position, 0)))
        # From the middle of the first pixel to the middle of the last is 15 sixteenths of the crop.
        spans = [np.ptp(seen[..., channel].astype(int)) / 2 / 100 * 16 / 15 for channel in (0, 1)]
        shares.append(float(spans[0] * spans[1]))
    assert min(shares) == pytest.approx(0.5, abs=0.05)
    assert max(shares) == pytest.approx(1.0, abs=0.1)


def test_nothing_is_touched_when_nothing_is_asked_for() -> None:
    assert augment(batch(), draws(), PLAIN) is not None
    assert (augment(batch(), draws(), PLAIN) == batch()).all()
    still = Transforms(crop_scale=1.0, hflip=0.5, rotation_degrees=30, translate=0.2, zoom=0.2, hue=0.1)
    assert (augment(batch(1), fixed(flip=0.9), still).int() - batch(1).int()).abs().max() <= 1


def test_a_mirror_image_is_exact() -> None:
    mirrored = Transforms(crop_scale=1.0, hflip=1.0, brightness=0.0, contrast=0.0, saturation=0.0)
    assert (augment(batch(), draws(), mirrored) == batch().flip(3)).all()


def test_a_shift_moves_by_the_share_it_says() -> None:
    moved = Transforms(crop_scale=1.0, translate=0.25, brightness=0.0, contrast=0.0, saturation=0.0)
    shifted = augment(batch(1), fixed(shift_x=1.0), moved)
    assert (shifted[..., :12] == batch(1)[..., 4:]).all()


def test_a_quarter_turn_turns_a_quarter() -> None:
    turned = Transforms(crop_scale=1.0, rotation_degrees=90, brightness=0.0, contrast=0.0, saturation=0.0)
    found = augment(batch(1), fixed(angle=1.0), turned)
    assert (found.int() - torch.rot90(batch(1), 1, (2, 3)).int()).abs().max() <= 1


def test_brightness_contrast_and_saturation_are_what_torchvision_makes_them() -> None:
    from torchvision.transforms import functional

    image = batch(1) // 2 + 60  # away from the ends, where each step clips for itself
    for name, adjust in (
        ("brightness", functional.adjust_brightness),
        ("contrast", functional.adjust_contrast),
        ("saturation", functional.adjust_saturation),
    ):
        settings: dict[str, Any] = {**dict.fromkeys(("brightness", "contrast", "saturation"), 0.0), name: 0.2}
        ours = augment(image, fixed(**{name: 1.0}), Transforms(crop_scale=1.0, **settings))
        assert (ours.int() - adjust(image, 1.2).int()).abs().max() <= 1


def test_a_turned_hue_keeps_greys_and_brightness() -> None:
    hue = Transforms(crop_scale=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.5)
    grey = torch.full((1, 3, 4, 4), 120, dtype=torch.uint8)
    assert (augment(grey, fixed(hue=0.9), hue).int() - 120).abs().max() <= 1
    red = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 90
    red += 60
    turned = augment(red, fixed(hue=0.0), hue).float()
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    assert ((turned - red.float()) * luma).sum(1).abs().max() <= 1
    assert turned[0, 0, 0, 0] < turned[0, 1, 0, 0]


def test_each_sample_has_its_own_parameters_and_batches_do_not_matter() -> None:
    strong = Transforms(crop_scale=1.0, hflip=0.5, rotation_degrees=30, translate=0.1, hue=0.2)
    together = augment(batch(), draws(), strong)
    alone = torch.cat([augment(batch()[row : row + 1], draws()[row : row + 1], strong) for row in range(4)])
    assert (together.int() - alone.int()).abs().max() <= 1
