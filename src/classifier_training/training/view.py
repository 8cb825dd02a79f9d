"""What a step of training sees of its batch: its size, and what is mixed into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.training.mixing import draw_mix, mix_images, mix_targets
from classifier_training.training.progressive import epoch_size, shrink

if TYPE_CHECKING:
    from torch import Tensor

    from classifier_training.data.augmenting.transforms import Transforms


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    """Shrinks and mixes whole batches on their device; all of it follows from (seed, epoch, step).

    Args:
        transforms: how far.
        num_classes: K.
        image_size: side of the pictures that evaluation sees, in pixels.
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
            Images, and targets: class numbers as they came, or shares float32 [B, K] where pictures were mixed.
        """
        start_scale = self.transforms.start_scale
        images = shrink(images, epoch_size(epoch, self.max_epochs, image_size=self.image_size, start_scale=start_scale))
        height, width = images.shape[-2:]
        mix = draw_mix(self.transforms, height=height, width=width, seed=self.seed, epoch=epoch, step=step)
        if mix is None:
            return images, targets
        return mix_images(images, mix), mix_targets(targets, mix, self.num_classes)
