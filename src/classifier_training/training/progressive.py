"""Progressive resizing: early epochs see smaller images, which takes less time (Howard 2018, fast.ai's DAWNBench)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

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
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
