from __future__ import annotations

import numpy as np
import pytest
import torch

from classifier_training.core.errors import UserError
from classifier_training.data.augmenting.transforms import Transforms
from classifier_training.training.view import Mix, cut_box, draw_mix, mix_images, mix_targets

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
