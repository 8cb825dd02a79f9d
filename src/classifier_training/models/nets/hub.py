"""A network of the Hugging Face hub behind the signature that all networks have here."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

INTERPOLATE = "interpolate_pos_encoding"


class HubClassifier(nn.Module):
    """Answers pictures with logits alone: float32 [B, 3, H, W] -> [B, K].

    Args:
        model: of transformers, for image classification.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._settings: dict[str, Any] = {"return_dict": True}

    def set_input_size(self, img_size: tuple[int, int]) -> None:  # noqa: ARG002 - the forward pass sees it
        """Take pictures of another size than the network was made for, where its position embeddings can be resized.

        They stay as trained and are interpolated in each pass, which costs next to nothing.
        """
        if INTERPOLATE in inspect.signature(self.model.forward).parameters:
            self._settings[INTERPOLATE] = True

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(pixel_values=images, **self._settings).logits
        return logits
