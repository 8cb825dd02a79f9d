"""Mixed images and labels, and images that grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from classifier_training.core.errors import UserError
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.training.batch_transforms import (
    Mix,
    TrainingView,
    check_progressive,
    cut_box,
    draw_mix,
    epoch_size,
    mix_images,
    mix_targets,
    shrink,
)

SIDE = 16


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


TARGETS = torch.tensor([0, 1, 2, 2])


def draw(transforms: Transforms, *, seed: int = 0, epoch: int = 0, step: int = 0) -> Mix | None:
    return draw_mix(transforms, height=SIDE, width=SIDE, seed=seed, epoch=epoch, step=step)


@pytest.mark.parametrize("settings", [{"mixup_alpha": 0.4}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}])
def test_pictures_and_targets_are_mixed_as_timm_mixes_them(
    settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from timm.data import mixup

    boxes = []
    original = mixup.rand_bbox

    def spy(*arguments: object, **more: object) -> object:
        boxes.append(original(*arguments, **more))  # type: ignore[no-untyped-call]
        return boxes[-1]

    monkeypatch.setattr(mixup, "rand_bbox", spy)
    np.random.seed(3)  # noqa: NPY002 - timm draws from it
    theirs = mixup.Mixup(**settings, label_smoothing=0.0, num_classes=3)  # type: ignore[no-untyped-call]
    expected_images, expected_targets = theirs(images().float(), TARGETS)
    np.random.seed(3)  # noqa: NPY002
    np.random.rand()  # noqa: NPY002 - whether to mix at all
    alpha = settings.get("cutmix_alpha", settings["mixup_alpha"])
    share = float(np.random.beta(alpha, alpha))  # noqa: NPY002
    mix = Mix(share)
    if boxes:
        top, bottom, left, right = (int(value) for value in boxes[0])
        mix = Mix(1 - (bottom - top) * (right - left) / SIDE**2, (top, bottom, left, right))
    assert torch.allclose(mix_images(images(), mix).float(), expected_images.float(), atol=1e-3)
    assert torch.allclose(mix_targets(TARGETS, mix, 3), expected_targets, atol=1e-6)


def test_a_box_has_the_share_that_is_not_the_first_pictures_and_ends_at_the_border() -> None:
    assert cut_box(0.75, height=16, width=16, middle=(8, 8)) == (4, 12, 4, 12)
    assert cut_box(0.75, height=16, width=16, middle=(0, 15)) == (0, 4, 11, 16)
    assert cut_box(0.75, height=16, width=32, middle=(8, 16)) == (4, 12, 8, 24)


def test_how_a_batch_is_mixed_follows_from_seed_epoch_and_step_alone() -> None:
    both = Transforms(mixup=0.4, cutmix=1.0)
    first = draw(both)
    np.random.default_rng().random(3)
    assert draw(both) == first
    others = [draw(both, seed=1), draw(both, epoch=1), draw(both, step=1)]
    assert all(other != first for other in others)
    many = [draw(both, step=step) for step in range(200)]
    cuts = sum(mix is not None and mix.box is not None for mix in many)
    assert 70 < cuts < 130
    half = [draw(Transforms(mixup=0.4, mix_probability=0.5), step=step) for step in range(200)]
    assert 70 < sum(mix is None for mix in half) < 130
    assert draw(Transforms()) is None


def test_shares_are_of_the_beta_distribution_asked_for() -> None:
    found = [draw(Transforms(mixup=0.2), step=step) for step in range(2000)]
    shares = np.array([mix.share for mix in found if mix is not None])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    # The variance of Beta(a, a) is 1 / (4 (2a + 1)).
    assert shares.var() == pytest.approx(1 / (4 * 1.4), abs=0.01)


def test_a_cut_changes_no_pixel_but_those_of_its_box() -> None:
    mix = Mix(0.75, (4, 12, 4, 12))
    mixed = mix_images(images(), mix)
    assert mixed.dtype == torch.uint8
    assert (mixed[0, :, 4:12, 4:12] == images()[3, :, 4:12, 4:12]).all()
    assert (mixed[0, :, :4] == images()[0, :, :4]).all()


def test_a_probability_of_mixing_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"mix_probability=0\.5 has no effect"):
        Transforms(mix_probability=0.5)


def sizes(max_epochs: int, *, image_size: int = 224, start_scale: float = 0.5) -> list[int]:
    return [
        epoch_size(epoch, max_epochs, image_size=image_size, start_scale=start_scale) for epoch in range(max_epochs)
    ]


def test_pictures_grow_in_steps_of_32_and_end_at_their_size() -> None:
    found = sizes(12)
    assert found[0] == 128 or found[0] == 96  # half of 224 is as near to the one as to the other
    assert found == sorted(found)
    assert all(size % 32 == 0 for size in found)
    assert found[9:] == [224, 224, 224]


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
def test_the_last_epoch_always_has_the_full_size(max_epochs: int) -> None:
    assert sizes(max_epochs)[-1] == 224


def test_a_size_that_is_no_multiple_of_32_is_reached_nevertheless() -> None:
    found = sizes(8, image_size=100)
    assert found[0] in (32, 64)
    assert found[-1] == 100
    assert max(found) == 100


def test_the_full_size_throughout_is_the_default() -> None:
    assert sizes(4, start_scale=Transforms().start_scale) == [224] * 4


def test_a_start_that_changes_nothing_is_refused() -> None:
    assert check_progressive(4, image_size=64, start_scale=0.5) == 32
    for image_size, max_epochs in ((32, 4), (224, 1)):
        with pytest.raises(UserError, match=r"transforms\.start_scale=0\.5 has no effect"):
            check_progressive(max_epochs, image_size=image_size, start_scale=0.5)


def test_a_batch_is_shrunk_before_it_is_mixed_and_left_alone_at_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    targets = torch.tensor([0, 1, 1, 0])
    view = TrainingView(
        transforms=Transforms(start_scale=0.5, mixup=1.0), num_classes=2, image_size=64, max_epochs=4, seed=0
    )
    images, shares = view(batch, targets, epoch=0, step=0)
    assert images.shape == (4, 3, 32, 32)
    assert shares.shape == (4, 2)
    assert shares.sum(1).tolist() == pytest.approx([1] * 4)
    assert view(batch, targets, epoch=3, step=0)[0].shape == (4, 3, 64, 64)
    assert shrink(batch, 64) is batch
    expected = torch.nn.functional.interpolate(batch.float(), (32, 32), mode="bilinear", antialias=True)
    assert (shrink(batch, 32).float() - expected).abs().max() <= 1.01
    # Elsewhere than on the CPU whole numbers are not interpolated.
    called: list[torch.dtype] = []
    interpolate = torch.nn.functional.interpolate

    def spy(images: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        called.append(images.dtype)
        return interpolate(images, *arguments, **options)

    monkeypatch.setattr("classifier_training.training.batch_transforms.functional.interpolate", spy)
    found = shrink(batch.to("meta"), 32)
    assert (found.dtype, found.shape, called) == (torch.uint8, (4, 3, 32, 32), [torch.float32])
