"""What a training step makes of its batch: mixed images and labels, and smaller images in the first epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch.nn import functional

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from classifier_training.data.augmenting.transforms import Transforms

STREAM = 0x6D6978
"""Tells these random numbers from others of the same step."""


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed.

    Args:
        share: of the first image, 0..1.
        box: top, bottom, left, right in pixels of the part that the second image fills; None blends them whole.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(transforms: Transforms, *, height: int, width: int, seed: int, epoch: int, step: int) -> Mix | None:
    """Draw how the batch of a step is mixed; None leaves it as it is.

    Shares are of the distribution Beta(alpha, alpha): mixup as in Zhang et al. 2018 (arXiv:1710.09412), CutMix as in
    Yun et al. 2019 (arXiv:1905.04899), where the share of the box is 1 less the random share. With both asked for, each
    step takes one of them.
    """
    if not transforms.mixes:
        return None
    generator = np.random.default_rng(derive_seed(STREAM, seed, epoch, step))
    decides, chooses = generator.random(2)
    if decides >= transforms.mix_probability:
        return None
    cuts = transforms.cutmix > 0 and (transforms.mixup == 0 or chooses < 0.5)
    alpha = transforms.cutmix if cuts else transforms.mixup
    share = float(generator.beta(alpha, alpha))
    if not cuts:
        return Mix(share)
    middle = int(generator.integers(0, height)), int(generator.integers(0, width))
    box = cut_box(share, height=height, width=width, middle=middle)
    top, bottom, left, right = box
    # Cut at the border, the box is smaller than its random size.
    return Mix(1 - (bottom - top) * (right - left) / (height * width), box)


def cut_box(share: float, *, height: int, width: int, middle: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box of 1 - share of the area around a point, cut where the image ends."""
    side = math.sqrt(1 - share)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    y, x = middle
    return max(0, y - half_height), min(height, y + half_height), max(0, x - half_width), min(width, x + half_width)


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """Mix images [B, 3, H, W] with those of the batch turned round; a blend is float32, a cut keeps its type."""
    other = images.flip(0)
    if mix.box is None:
        return images.float().mul_(mix.share).add_(other, alpha=1 - mix.share)
    top, bottom, left, right = mix.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return mixed


def mix_targets(targets: Tensor, mix: Mix, num_classes: int) -> Tensor:
    """Shares of the classes, float32 [B, K], from class numbers, int64 [B]."""
    shares = functional.one_hot(targets, num_classes).float()
    return shares * mix.share + shares.flip(0) * (1 - mix.share)


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    """Shrinks and mixes whole batches on their device; all of it follows from (seed, epoch, step).

    Args:
        transforms: how far.
        num_classes: K.
        image_size: side of the images that evaluation sees, in pixels.
        max_epochs: planned length of the run.
        seed: of the run.
    """

    transforms: Transforms
    num_classes: int
    image_size: int
    max_epochs: int
    seed: int

    def __call__(self, images: Tensor, targets: Tensor, *, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch to train on.

        Args:
            images: uint8 [B, 3, H, W].
            targets: int64 [B].
            epoch: counted from 0.
            step: batch of the epoch, counted from 0.

        Returns:
            Images, and targets: class numbers as they came, or shares float32 [B, K] where images were mixed.
        """
        start_scale = self.transforms.start_scale
        images = shrink(images, epoch_size(epoch, self.max_epochs, image_size=self.image_size, start_scale=start_scale))
        height, width = images.shape[-2:]
        mix = draw_mix(self.transforms, height=height, width=width, seed=self.seed, epoch=epoch, step=step)
        if mix is None:
            return images, targets
        return mix_images(images, mix), mix_targets(targets, mix, self.num_classes)


STRIDE = 32
"""Sizes are multiples of it: as far as most networks shrink an image."""

GROWTH_SHARE = 0.75
"""Share of the epochs after which images have their full size."""


def epoch_size(epoch: int, max_epochs: int, *, image_size: int, start_scale: float) -> int:
    """Side of the training images of an epoch, in pixels.

    It grows evenly from `start_scale` of the size, in multiples of 32, and is the full one in the last quarter of the
    epochs and always in the last, so that the run ends on what evaluation sees.

    Args:
        epoch: counted from 0.
        max_epochs: planned length of the run.
        image_size: full size.
        start_scale: share of it in the first epoch.
    """
    growing = math.ceil(GROWTH_SHARE * max_epochs)
    if start_scale == 1 or epoch >= min(growing, max_epochs - 1):
        return image_size
    scale = start_scale + (1 - start_scale) * epoch / growing
    return min(image_size, max(STRIDE, round(image_size * scale / STRIDE) * STRIDE))


def check_progressive(max_epochs: int, *, image_size: int, start_scale: float) -> int:
    """Return the size of the first epoch.

    Raises:
        UserError: when a smaller start was asked for, and all epochs would have the full size.
    """
    first = epoch_size(0, max_epochs, image_size=image_size, start_scale=start_scale)
    if start_scale < 1 and first == image_size:
        raise UserError(
            f"transforms.start_scale={start_scale:g} has no effect with data.image_size={image_size} and "
            f"trainer.max_epochs={max_epochs}: the size is rounded to {STRIDE} pixels, and the last epoch has it all",
            f"a first size at least {STRIDE} pixels below the last, and two epochs or more",
            "transforms.start_scale=1",
        )
    return first


def shrink(images: Tensor, size: int) -> Tensor:
    """Fit a batch, uint8 [B, 3, H, W], to a smaller square; the same where it has the size already."""
    if images.shape[-1] == size and images.shape[-2] == size:
        return images
    if images.device.type == "cpu":
        return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    # Only on the CPU PyTorch has this for whole numbers.
    found = functional.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return found.round().clamp(0, 255).to(images.dtype)
