"""Augmentation of a whole batch with each sample's own parameters, on whatever device the batch is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from classifier_training.data.transforms import DRAWS

if TYPE_CHECKING:
    from classifier_training.data.transforms import Transforms

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""

RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def augment(images: Tensor, draws: Tensor, transforms: Transforms) -> Tensor:
    """Move and recolour a batch.

    Args:
        images: uint8 [B, 3, H, W].
        draws: float32 [B, len(DRAWS)] in [0, 1), the random numbers of each sample.
        transforms: how far each change may go.

    Returns:
        uint8 [B, 3, H, W].
    """
    # With the other backend the colours have been changed, one picture after the other.
    recolours = transforms.changes_colours and transforms.backend == "pillow"
    if not (transforms.moves_pixels or recolours):
        return images
    # -1..1 for the changes that go both ways
    signed = dict(zip(DRAWS, (2 * draws - 1).unbind(1), strict=True))
    pixels = images.float()
    if transforms.moves_pixels:
        pixels = _move(pixels, signed, transforms)
    if recolours:
        pixels = _recolour(pixels, signed, transforms)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _move(pixels: Tensor, signed: dict[str, Tensor], transforms: Transforms) -> Tensor:
    """One resampling for mirror, rotation, zoom and shift; the border is reflected."""
    height, width = pixels.shape[-2:]
    angle = signed["angle"] * math.radians(transforms.rotation_degrees)
    scale = 1 + signed["zoom"] * transforms.zoom
    mirror = torch.where(signed["flip"] < 2 * transforms.hflip - 1, -1.0, 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # Coordinates run from -1 to 1 on both axes, so a picture that is not square needs its aspect undone and redone.
    aspect = height / width
    shift_x, shift_y = (
        2 * transforms.translate * signed["shift_x"],
        2 * transforms.translate * signed["shift_y"],
    )
    rows = torch.stack(
        [
            torch.stack([mirror * cos, mirror * -sin * aspect, shift_x], dim=1),
            torch.stack([sin / aspect, cos, shift_y], dim=1),
        ],
        dim=1,
    )
    grid = affine_grid(rows, list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recolour(pixels: Tensor, signed: dict[str, Tensor], transforms: Transforms) -> Tensor:
    """Brightness, contrast, saturation and hue as one 3 x 3 matrix and one offset a sample.

    The hue turns in the plane of YIQ's I and Q, which keeps it linear, where HSV would need six cases a pixel.
    """
    brightness = 1 + transforms.brightness * signed["brightness"]
    contrast = 1 + transforms.contrast * signed["contrast"]
    saturation = 1 + transforms.saturation * signed["saturation"]
    turn = 2 * math.pi * transforms.hue * signed["hue"]
    to_yiq = torch.tensor(RGB_TO_YIQ, device=pixels.device)
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    cos, sin = saturation * torch.cos(turn), saturation * torch.sin(turn)
    chroma = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    colours = torch.linalg.inv(to_yiq) @ chroma @ to_yiq
    luma = torch.tensor(LUMA, device=pixels.device)
    grey = torch.einsum("bchw,c->b", pixels, luma) / (pixels.shape[-1] * pixels.shape[-2])
    gain = (brightness * contrast)[:, None, None] * colours
    offset = (1 - contrast) * brightness * grey
    return torch.einsum("bij,bjhw->bihw", gain, pixels) + offset[:, None, None, None]
