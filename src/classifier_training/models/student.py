"""Our light network: what a large one is distilled into, or what ships to a browser or a phone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.types import BuiltModel


@register(group="model", name="student")
def student(
    num_classes: int,
    *,
    width: Annotated[float, Field(ge=0.65, le=2)] = 1.0,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> BuiltModel:
    """A light network of 1 to 10 MB, 2.5 MB unless width is set, for distillation and small devices.

    Args:
        width: factor of all channel counts; the size grows with its square.
        dropout: share of features dropped before the last layer.
    """
    from classifier_training.models.nets.layers import OWN_INPUT
    from classifier_training.models.nets.light import light_network

    return BuiltModel(light_network(num_classes, width=width, dropout=dropout), OWN_INPUT, "student")
