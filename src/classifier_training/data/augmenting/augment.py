"""Augmentation of a whole batch with each sample's own parameters, on the batch's device."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from classifier_training.data.augmenting.transforms import DRAWS

if TYPE_CHECKING:
    from classifier_training.data.augmenting.transforms import Transforms

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""

RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def augment(images: Tensor, draws: Tensor, transforms: Transforms) -> Tensor:
    """Apply the geometric and colour augmentations to a batch at once.

    Args:
        images: uint8 [B, 3, H, W].
        draws: float32 [B, len(DRAWS)] in [0, 1), the random numbers of each sample.
        transforms: largest strength of each change.

    Returns:
        uint8 [B, 3, H, W].
    """
    return Changes(draws, transforms, images.shape[2], images.shape[3]).apply(images)


class Changes:
    """The changes of each image of a batch: an affine matrix [B, 2, 3], a colour matrix [B, 3, 3] and a share of grey.

    Args:
        draws: float32 [B, len(DRAWS)].
        transforms: largest strength of each change.
        height: of the images.
        width: of the images.
    """

    def __init__(self, draws: Tensor, transforms: Transforms, height: int, width: int) -> None:
        # -1..1 for the changes that go both ways
        signed = dict(zip(DRAWS, (2 * draws - 1).unbind(1), strict=True))
        self._moves = _movement(signed, transforms, height / width) if transforms.moves_pixels else None
        self._colours = _colours(signed, transforms) if _recolours(transforms) else None
        self._luma = torch.tensor(LUMA, device=draws.device)

    def apply(self, images: Tensor) -> Tensor:
        """Change a whole batch, uint8 [B, 3, H, W]."""
        if self._moves is None and self._colours is None:
            return images
        pixels = images.float()
        if self._moves is not None:
            pixels = _resample(pixels, self._moves)
        pixels = pixels.contiguous()
        if self._colours is not None:
            gain, share = self._colours
            flat = pixels.flatten(2)
            added = share * (flat.mean(2) @ self._luma)
            pixels = torch.bmm(gain, flat).add_(added[:, None, None]).view_as(pixels)
        return _levels(pixels)

    def apply_one(self, row: int, image: Tensor, out: Tensor) -> None:
        """Change one image of the batch on the CPU, in reused memory that stays in the cache.

        Args:
            row: its index in the batch.
            image: uint8 [3, H, W].
            out: uint8 [3, H, W], receives the result.
        """
        if self._moves is None and self._colours is None:
            out.copy_(image)
            return
        first, second, whole = _scratch(image.shape)
        pixels = first.copy_(image)
        if self._moves is not None:
            pixels = _resample(pixels[None], self._moves[row : row + 1])[0].contiguous()
        if self._colours is not None:
            gain, share = self._colours
            flat = pixels.view(3, -1)
            added = share[row] * (flat.mean(1) @ self._luma)
            torch.mm(gain[row], flat, out=second.view(3, -1))
            pixels = second.add_(added)
        out.copy_(whole.copy_(pixels.round_().clamp_(0, 255)))


def changes_batch(transforms: Transforms) -> bool:
    """Whether `augment` changes anything."""
    return transforms.moves_pixels or _recolours(transforms)


def _recolours(transforms: Transforms) -> bool:
    # With OpenCV, the colours have been changed image by image.
    return transforms.changes_colours and transforms.backend == "pillow"


def _resample(pixels: Tensor, moves: Tensor) -> Tensor:
    grid = affine_grid(moves, list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _levels(pixels: Tensor) -> Tensor:
    # Conversion by int16 takes a quarter of the time on the CPU.
    return pixels.round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)


_memory = threading.local()


def _scratch(shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Reused memory of this thread for one image; allocating it each time takes as long as the work."""
    if getattr(_memory, "shape", None) != shape:
        _memory.shape = shape
        _memory.tensors = torch.empty(shape), torch.empty(shape), torch.empty(shape, dtype=torch.int16)
    found: tuple[Tensor, Tensor, Tensor] = _memory.tensors
    return found


def _movement(signed: dict[str, Tensor], transforms: Transforms, aspect: float) -> Tensor:
    """Affine matrices of flip, rotation, zoom and shift, [B, 2, 3]; the border is reflected."""
    angle = signed["angle"] * math.radians(transforms.rotation_degrees)
    scale = 1 + signed["zoom"] * transforms.zoom
    mirror = torch.where(signed["flip"] < 2 * transforms.hflip - 1, -1.0, 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # Coordinates run from -1 to 1 on both axes, so an image that is not square needs its aspect undone and redone.
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

    The hue rotates in the plane of YIQ's I and Q, which is linear; HSV would need six cases a pixel.
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
