"""Augmentation of a whole batch with each sample's own parameters, on whatever device the batch is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from classifier_training.data.threads import map_samples
from classifier_training.data.transforms import DRAWS

if TYPE_CHECKING:
    from classifier_training.data.transforms import Transforms

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""

RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def augment(images: Tensor, draws: Tensor, transforms: Transforms) -> Tensor:
    """Move and recolour a batch.

    On the CPU one sample after the other, for their pixels then stay in the cache; elsewhere all at once.

    Args:
        images: uint8 [B, 3, H, W].
        draws: float32 [B, len(DRAWS)] in [0, 1), the random numbers of each sample.
        transforms: how far each change may go.

    Returns:
        uint8 [B, 3, H, W].
    """
    if not changes_batch(transforms):
        return images
    # -1..1 for the changes that go both ways
    signed = dict(zip(DRAWS, (2 * draws - 1).unbind(1), strict=True))
    moves = _movement(images, signed, transforms) if transforms.moves_pixels else None
    colours = _colours(signed, transforms) if _recolours(transforms) else None
    if images.device.type != "cpu":
        return _change(images, moves, colours)

    def change_one(row: int) -> Tensor:
        one = slice(row, row + 1)
        colour = None if colours is None else (colours[0][one], colours[1][one])
        return _change(images[one], None if moves is None else moves[one], colour)

    return torch.cat(map_samples(change_one, len(images)))


def changes_batch(transforms: Transforms) -> bool:
    """Whether `augment` changes anything."""
    return transforms.moves_pixels or _recolours(transforms)


def _recolours(transforms: Transforms) -> bool:
    # With the other backend the colours have been changed, one picture after the other.
    return transforms.changes_colours and transforms.backend == "pillow"


def _change(images: Tensor, moves: Tensor | None, colours: tuple[Tensor, Tensor] | None) -> Tensor:
    """Apply to each picture its movement [B, 2, 3] and its colours, a matrix [B, 3, 3] and a share of its grey [B]."""
    pixels = images.float()
    if moves is not None:
        grid = affine_grid(moves, list(pixels.shape), align_corners=False)
        pixels = grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    pixels = pixels.contiguous()
    if colours is not None:
        gain, share = colours
        flat = pixels.flatten(2)
        grey = flat.mean(2) @ torch.tensor(LUMA, device=flat.device)
        changed = torch.mm(gain[0], flat[0])[None] if len(flat) == 1 else torch.bmm(gain, flat)
        pixels = changed.add_((share * grey)[:, None, None]).view_as(pixels)
    # By way of int16, which on the CPU takes a quarter of the time.
    return pixels.round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _movement(images: Tensor, signed: dict[str, Tensor], transforms: Transforms) -> Tensor:
    """One resampling for mirror, rotation, zoom and shift, [B, 2, 3]; the border is reflected."""
    height, width = images.shape[-2:]
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
    return torch.stack(
        [
            torch.stack([mirror * cos, mirror * -sin * aspect, shift_x], dim=1),
            torch.stack([sin / aspect, cos, shift_y], dim=1),
        ],
        dim=1,
    )


def _colours(signed: dict[str, Tensor], transforms: Transforms) -> tuple[Tensor, Tensor]:
    """Brightness, contrast, saturation and hue as one 3 x 3 matrix a sample, and how much of its mean grey is added.

    The hue turns in the plane of YIQ's I and Q, which keeps it linear, where HSV would need six cases a pixel.
    """
    brightness = 1 + transforms.brightness * signed["brightness"]
    contrast = 1 + transforms.contrast * signed["contrast"]
    saturation = 1 + transforms.saturation * signed["saturation"]
    turn = 2 * math.pi * transforms.hue * signed["hue"]
    to_yiq = torch.tensor(RGB_TO_YIQ, device=turn.device)
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    cos, sin = saturation * torch.cos(turn), saturation * torch.sin(turn)
    chroma = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    colours = torch.linalg.inv(to_yiq) @ chroma @ to_yiq
    return (brightness * contrast)[:, None, None] * colours, (1 - contrast) * brightness
