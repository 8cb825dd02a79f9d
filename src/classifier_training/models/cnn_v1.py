"""Our small network: four blocks of convolutions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.types import BuiltModel


@register(group="model", name="cnn_v1")
def cnn_v1(
    num_classes: int,
    *,
    residual: bool = False,
    num_convolutions: Annotated[int, Field(ge=1, le=4)] = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> BuiltModel:
    """Four blocks of 32, 64, 128 and 256 channels: 1.2 million parameters, for small pictures, from scratch.

    Args:
        residual: add each block's input to its output.
        num_convolutions: of 3x3 in each block, before its max-pool.
        dropout: share of channels dropped after each block, and of features before the last layer.
    """
    from classifier_training.models.nets.layers import OWN_INPUT
    from classifier_training.models.nets.plain import plain_network

    network = plain_network(num_classes, residual=residual, num_convolutions=num_convolutions, dropout=dropout)
    return BuiltModel(network, OWN_INPUT, "cnn_v1_residual" if residual else "cnn_v1")
