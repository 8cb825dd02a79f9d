"""Augmentations of single images: random crop, degradations, colour jitter by OpenCV, and TrivialAugment.

All randomness comes from the sample's random numbers; see `transforms.draw_uniforms`. Degradations do to any image what
`sample_sets/jerseys.py` does to its own; `erase` is random erasing (Zhong et al. 2020, arXiv:1708.04896).
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn.functional import interpolate

from classifier_training.core.preprocess import import_opencv
from classifier_training.data.augmenting.transforms import DRAWS
from classifier_training.data.pixel_format import MAX_LOG_RATIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.data.augmenting.transforms import Transforms


def training_pixels(
    kept: NDArray[np.uint8], preprocessing: Preprocessing, crop_scale: float, draws: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Take a random crop of an image's kept pixels, and resize it to the network's input.

    The crop takes between `crop_scale` and all of the area, in the aspect ratio that the policy gives the whole image.

    Args:
        kept: uint8 [h, w, 3]; see `data/pixel_format.py`.
        preprocessing: size, policy and kernel of the resize.
        crop_scale: of the pixel format.
        draws: float64 [len(DRAWS)], the sample's random numbers.

    Returns:
        uint8 [H, W, 3].
    """
    if crop_scale == 1:
        return kept
    area, ratio, x, y = draws[:4].tolist()
    share = crop_scale + (1 - crop_scale) * area
    stretch = math.exp(MAX_LOG_RATIO * (2 * ratio - 1) / 2)
    kept_height, kept_width = kept.shape[:2]
    width, height = float(kept_width), float(kept_height)
    if preprocessing.policy == "crop":
        scale = min(width / preprocessing.size[1], height / preprocessing.size[0])
        width, height = preprocessing.size[1] * scale, preprocessing.size[0] * scale
    cut_width = max(1, round(min(kept_width, width * math.sqrt(share) * stretch)))
    cut_height = max(1, round(min(kept_height, height * math.sqrt(share) / stretch)))
    left, top = round((kept_width - cut_width) * x), round((kept_height - cut_height) * y)
    part = kept[top : top + cut_height, left : left + cut_width]
    # The crop has the wanted aspect ratio already, apart from the random stretch.
    fitted = replace(preprocessing, policy="squash") if preprocessing.policy == "crop" else preprocessing
    if fitted.backend == "opencv" or fitted.kernel == "area":
        return fitted.pixels(Image.fromarray(part))
    place = fitted.geometry(cut_height, cut_width)
    return fitted.cut(_resize_fast(part, place.height, place.width, fitted.kernel), place)


def _resize_fast(pixels: NDArray[np.uint8], height: int, width: int, kernel: str) -> NDArray[np.uint8]:
    """Resize as Pillow does, to within one grey level, in a quarter of the time."""
    if pixels.shape[:2] == (height, width):
        return pixels
    # Copies read-only arrays such as Pillow's, which torch does not accept.
    image = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)[None]
    found: NDArray[np.uint8] = (
        interpolate(image, (height, width), mode=kernel, antialias=True)[0].permute(1, 2, 0).numpy()
    )
    return found


LARGEST_SIGMA = 0.02
"""Of the blur, as a share of the shorter side."""

LONGEST_MOTION = 0.1
"""As a share of the width."""

SMALLEST_SCALE = 0.25

LARGEST_NOISE = 25.0
"""Standard deviation in levels of 0..255."""

ERASED_AREA = (0.02, 0.33)

ERASED_LOG_RATIO = math.log(3.3)


def degrade(pixels: NDArray[np.uint8], draws: NDArray[np.float64], transforms: Transforms) -> NDArray[np.uint8]:
    """Degrade an image in the order of a camera: occlusion, then motion and lens, then sensor.

    Args:
        pixels: uint8 [H, W, 3].
        draws: float64 [len(DRAWS)] in [0, 1), the sample's random numbers.
        transforms: probability of each degradation.

    Returns:
        uint8 [H, W, 3]; the input is not changed.
    """
    values = dict(zip(DRAWS, draws.tolist(), strict=True))
    height, width = pixels.shape[:2]
    if values["erase"] < transforms.erase:
        pixels = _erase(pixels, values)
    if values["motion"] < transforms.motion_blur:
        pixels = move(pixels, 2 + int(values["motion_length"] * LONGEST_MOTION * width))
    if values["blur"] < transforms.blur:
        sigma = values["sigma"] * LARGEST_SIGMA * min(height, width)
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))
    if values["downscale"] < transforms.downscale:
        scale = SMALLEST_SCALE + (1 - SMALLEST_SCALE) * values["downscale_side"]
        small = max(1, round(width * scale)), max(1, round(height * scale))
        image = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    if values["noise"] < transforms.noise:
        generator = np.random.default_rng(int(values["noise_seed"] * 2**53))
        sigma = np.float32(LARGEST_NOISE * values["noise_level"])
        noisy = pixels + sigma * generator.standard_normal(pixels.shape, dtype=np.float32)
        pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return pixels


def move(pixels: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """Average each pixel with its neighbours in the row, `length` in total; the border is repeated."""
    before = (length - 1) // 2
    padded = np.pad(pixels, ((0, 0), (before + 1, length - 1 - before), (0, 0)), mode="edge")
    # The sum over a window is the difference of two sums from the start of the row.
    sums = padded.cumsum(axis=1, dtype=np.int64)
    found: NDArray[np.uint8] = np.rint((sums[:, length:] - sums[:, :-length]) / length).astype(np.uint8)
    return found


def _erase(pixels: NDArray[np.uint8], values: dict[str, float]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    smallest, largest = ERASED_AREA
    area = height * width * (smallest + (largest - smallest) * values["erase_area"])
    stretch = math.exp(ERASED_LOG_RATIO * (2 * values["erase_ratio"] - 1) / 2)
    tall = min(height, max(1, round(math.sqrt(area) * stretch)))
    wide = min(width, max(1, round(math.sqrt(area) / stretch)))
    top, left = round((height - tall) * values["erase_y"]), round((width - wide) * values["erase_x"])
    found = pixels.copy()
    found[top : top + tall, left : left + wide] = int(256 * values["erase_grey"])
    return found


NUM_HUES = 180
"""OpenCV keeps a hue of 0..360 degrees as 0..179 in eight bits."""


def jitter(pixels: NDArray[np.uint8], draws: NDArray[np.float64], transforms: Transforms) -> NDArray[np.uint8]:
    """Change brightness and contrast in RGB, then saturation and hue in HSV.

    Each change is a look-up table of 256 entries, so the cost is four passes over the bytes at any strength.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        draws: float64 [len(DRAWS)] in [0, 1), the sample's random numbers.
        transforms: largest strength of each change.

    Returns:
        uint8 [H, W, 3].
    """
    cv2 = import_opencv()
    signed = dict(zip(DRAWS, 2 * draws - 1, strict=True))
    levels = np.arange(256, dtype=np.float64)
    if transforms.brightness or transforms.contrast:
        brightness = 1 + transforms.brightness * signed["brightness"]
        contrast = 1 + transforms.contrast * signed["contrast"]
        grey = float(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0])
        pixels = cv2.LUT(pixels, _table(brightness * (contrast * (levels - grey) + grey)))
    if transforms.saturation or transforms.hue:
        saturation = 1 + transforms.saturation * signed["saturation"]
        turned = np.round(levels + NUM_HUES * transforms.hue * signed["hue"]) % NUM_HUES
        tables = np.stack([_table(turned), _table(levels * saturation), _table(levels)], axis=-1)
        hsv = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), tables[None])
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return pixels


def _table(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.round(values), 0, 255), dtype=np.uint8)


NUM_STRENGTHS = 31

LARGEST_SHIFT = 32
"""In pixels; half of the side in images below 64 pixels."""


@functools.cache
def operations() -> dict[str, tuple[Callable[[Image.Image, float], Image.Image], bool]]:
    """Return the operations of TrivialAugment by name, each with whether it goes both ways.

    Strengths run from 0 to 1; those of the operations that go both ways from -1 to 1. torchvision takes a second to
    import, so it is imported here and not with this file.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    bilinear = InterpolationMode.BILINEAR

    def shear(image: Image.Image, strength: float, *, across: bool) -> Image.Image:
        degrees = math.degrees(math.atan(0.99 * strength))
        angles = [degrees, 0.0] if across else [0.0, degrees]
        found: Image.Image = functional.affine(image, 0.0, [0, 0], 1.0, angles, bilinear, center=[0, 0])
        return found

    def shift(image: Image.Image, strength: float, *, across: bool) -> Image.Image:
        pixels = int(min(LARGEST_SHIFT, (image.width if across else image.height) / 2) * strength)
        offset = [pixels, 0] if across else [0, pixels]
        found: Image.Image = functional.affine(image, 0.0, offset, 1.0, [0.0, 0.0], bilinear)
        return found

    return {
        "Identity": (lambda image, _: image, False),
        "ShearX": (lambda image, s: shear(image, s, across=True), True),
        "ShearY": (lambda image, s: shear(image, s, across=False), True),
        "TranslateX": (lambda image, s: shift(image, s, across=True), True),
        "TranslateY": (lambda image, s: shift(image, s, across=False), True),
        "Rotate": (lambda image, s: functional.rotate(image, 135 * s, bilinear), True),
        "Brightness": (lambda image, s: functional.adjust_brightness(image, 1 + 0.99 * s), True),
        "Color": (lambda image, s: functional.adjust_saturation(image, 1 + 0.99 * s), True),
        "Contrast": (lambda image, s: functional.adjust_contrast(image, 1 + 0.99 * s), True),
        "Sharpness": (lambda image, s: functional.adjust_sharpness(image, 1 + 0.99 * s), True),
        "Posterize": (lambda image, s: functional.posterize(image, 8 - round(6 * s)), False),
        "Solarize": (lambda image, s: functional.solarize(image, 255 * (1 - s)), False),
        "AutoContrast": (lambda image, _: functional.autocontrast(image), False),
        "Equalize": (lambda image, _: functional.equalize(image), False),
    }


def trivial_augment(pixels: NDArray[np.uint8], draws: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Change an image, uint8 [H, W, 3], by the operation that its random numbers, float64 [len(DRAWS)], choose.

    TrivialAugment (arXiv:2103.10158): one operation an image, its name and its strength uniformly distributed.
    Operations and strengths are those of torchvision's `TrivialAugmentWide`, which uses torch's global generator.
    """
    values = dict(zip(DRAWS, draws.tolist(), strict=True))
    names = tuple(operations())
    name = names[int(values["trivial"] * len(names))]
    strength = int(values["strength"] * NUM_STRENGTHS) / (NUM_STRENGTHS - 1)
    return operate(pixels, name, -strength if operations()[name][1] and values["sign"] < 0.5 else strength)


def operate(pixels: NDArray[np.uint8], name: str, strength: float) -> NDArray[np.uint8]:
    """Change an image, uint8 [H, W, 3], by an operation of a strength from 0, or -1, to 1."""
    operation, _ = operations()[name]
    # Pillow's arithmetic takes a tenth of the time of torch's here.
    return np.asarray(operation(Image.fromarray(pixels), strength))
