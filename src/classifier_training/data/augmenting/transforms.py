"""Preprocessing and augmentation settings, and the random numbers of each sample.

Every random number of a sample is a pure function of (seed, epoch, position), so the number of workers, a resume or a
kill changes nothing. `pixel_format.py` shrinks an image once. `images.py` augments single images: random crop,
degradations and, with OpenCV, colour jitter. `augment.py` moves and recolours whole batches, and
`training/batch_transforms.py` mixes and resizes them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from classifier_training.core.errors import UserError
from classifier_training.core.images import FULL_RANGE
from classifier_training.core.preprocess import (
    Backend,
    ChannelOrder,
    Kernel,
    Policy,
    Preprocessing,
    choose_kernel,
    import_opencv,
)
from classifier_training.core.register import register
from classifier_training.core.settings import Fit, Resume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.core.types import InputSpec, SampleKey

Share = Annotated[float, Field(ge=0, lt=1), Resume.DIVERGES]
Probability = Annotated[float, Field(ge=0, le=1), Resume.DIVERGES]
Alpha = Annotated[float, Field(ge=0), Resume.DIVERGES]
PositiveShare = Annotated[float, Field(gt=0, le=1), Resume.DIVERGES]

DRAWS = (
    "area", "ratio", "x", "y", "flip", "angle", "shift_x", "shift_y", "zoom",
    "brightness", "contrast", "saturation", "hue",
    "trivial", "strength", "sign",
    "blur", "sigma", "motion", "motion_length", "downscale", "downscale_side", "noise", "noise_level", "noise_seed",
    "erase", "erase_area", "erase_ratio", "erase_x", "erase_y", "erase_grey",
)  # fmt: skip
"""Names of a sample's random numbers, in the order of `draw_uniforms`."""

NUM_BLOCKS = math.ceil(len(DRAWS) / 8)
"""Hashes of 64 bytes, each for 8 numbers."""


@register(group="transforms", name="standard")
@dataclass(frozen=True, kw_only=True)
class Transforms:
    """Evaluation preprocessing and training augmentation; everything random is off unless set here.

    Args:
        policy: squash stretches to the square, crop cuts the centre, letterbox adds black bars.
        backend: library that resizes images and changes colours: pillow, or opencv, which averages areas and changes
            colours in HSV.
        kernel: resize filter: bilinear and bicubic are antialiased, area averages whole pixels; bilinear when left
            out, area with opencv.
        channel_order: of the network's input; bgr for weights that were trained with it.
        max_value: white of grey images of more than 8 bits whose file does not state it, such as 4095 for 12 bits.
        crop_scale: smallest share of the image's area in a random training crop; 1 does not crop.
        hflip: probability of a horizontal flip; leave 0 where left and right differ in meaning, as in text.
        rotation_degrees: largest rotation in either direction.
        translate: largest shift in either direction, as a share of the side.
        zoom: largest relative change of scale.
        brightness: largest relative change of brightness.
        contrast: largest relative change of contrast.
        saturation: largest relative change of saturation.
        hue: largest rotation of the hue, as a share of the colour circle.
        trivial_augment: change each image by one random operation of TrivialAugment.
        blur: probability of Gaussian blur, as from a lens out of focus.
        motion_blur: probability of horizontal motion blur.
        downscale: probability of a lower resolution, down to a quarter.
        noise: probability of Gaussian noise, as from a sensor.
        erase: probability of random erasing: a grey rectangle hides a part.
        mixup: alpha of the beta distribution of the shares in mixup; 0 is off, 0.2 is usual.
        cutmix: alpha of the beta distribution of the shares in CutMix; 0 is off, 1 is usual.
        mix_probability: share of the batches that are mixed.
        start_scale: share of the image size at the start of training; it grows until three quarters of the epochs;
            1 uses the full size throughout.
    """

    policy: Annotated[Policy, Resume.FIXED, Fit.ANY] = "squash"
    backend: Annotated[Backend, Resume.FIXED, Fit.ANY] = "pillow"
    kernel: Annotated[Kernel | None, Resume.FIXED, Fit.ANY] = None
    channel_order: Annotated[ChannelOrder, Resume.FIXED, Fit.ANY] = "rgb"
    max_value: Annotated[int, Field(ge=255, le=FULL_RANGE), Resume.FIXED, Fit.ANY] = FULL_RANGE
    crop_scale: PositiveShare = 0.7
    hflip: Probability = 0.0
    rotation_degrees: Annotated[float, Field(ge=0, le=180), Resume.DIVERGES] = 0.0
    translate: Share = 0.0
    zoom: Share = 0.0
    brightness: Share = 0.2
    contrast: Share = 0.2
    saturation: Share = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5), Resume.DIVERGES] = 0.0
    trivial_augment: Annotated[bool, Resume.DIVERGES] = False
    blur: Probability = 0.0
    motion_blur: Probability = 0.0
    downscale: Probability = 0.0
    noise: Probability = 0.0
    erase: Probability = 0.0
    mixup: Alpha = 0.0
    cutmix: Alpha = 0.0
    mix_probability: PositiveShare = 1.0
    start_scale: PositiveShare = 1.0

    def __post_init__(self) -> None:
        choose_kernel(self.backend, self.kernel)
        if self.backend == "opencv":
            import_opencv()
        if self.mix_probability < 1 and not self.mixes:
            raise UserError(
                f"transforms.mix_probability={self.mix_probability:g} has no effect: nothing is mixed",
                "transforms.mixup or transforms.cutmix above 0",
                "transforms.mixup=0.2, or leave mix_probability out",
            )

    def evaluation(self, image_size: int, spec: InputSpec) -> Preprocessing:
        """Return the preprocessing of images outside training."""
        return Preprocessing(
            size=(image_size, image_size),
            mean=spec.mean,
            std=spec.std,
            policy=self.policy,
            backend=self.backend,
            kernel=choose_kernel(self.backend, self.kernel),
            channel_order=self.channel_order,
            max_value=self.max_value,
        )

    def without_augmentation(self) -> Transforms:
        """Return the same preprocessing without random changes."""
        return Transforms(
            policy=self.policy,
            backend=self.backend,
            kernel=self.kernel,
            channel_order=self.channel_order,
            max_value=self.max_value,
            crop_scale=1.0,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
        )

    @property
    def moves_pixels(self) -> bool:
        """Whether a geometric augmentation after the crop is on."""
        return bool(self.hflip or self.rotation_degrees or self.translate or self.zoom)

    @property
    def changes_colours(self) -> bool:
        """Whether a colour augmentation is on."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def degrades(self) -> bool:
        """Whether a degradation is on."""
        return bool(self.blur or self.motion_blur or self.downscale or self.noise or self.erase)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return bool(self.mixup or self.cutmix)

    @property
    def changes_images(self) -> bool:
        """Whether an image differs each time it is used for training."""
        alone = self.crop_scale < 1 or self.moves_pixels or self.changes_colours or self.trivial_augment
        return bool(alone or self.degrades or self.mixes or self.start_scale < 1)


def draw_uniforms(seed: int, key: SampleKey) -> NDArray[np.float64]:
    """Return a sample's random numbers in [0, 1), float64 [len(DRAWS)]: a hash of (seed, epoch, position, row).

    A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with BLAKE2 as its
    function: no state, no order, a few microseconds.
    """
    packed = struct.pack("<4q", seed, key.epoch, key.position, key.row)
    blocks = [blake2b(packed, digest_size=64, salt=bytes([block])).digest() for block in range(NUM_BLOCKS)]
    words = np.frombuffer(b"".join(blocks), dtype="<u8", count=len(DRAWS))
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, dtype=np.float64)
