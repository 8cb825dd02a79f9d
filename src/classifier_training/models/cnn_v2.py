"""Our larger network: residual, dense, or both with attention."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.types import BuiltModel


@register(group="model", name="cnn_v2")
def cnn_v2(
    num_classes: int,
    *,
    kind: Literal["residual", "dense", "hybrid"] = "residual",
    width: Annotated[int, Field(ge=32, le=256, multiple_of=8)] = 32,
    depth: Annotated[int, Field(ge=1, le=8)] = 2,
    separable: bool = False,
    attention: Literal["none", "squeeze_excitation", "self_attention"] | None = None,
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> BuiltModel:
    """Four stages of residual, dense or hybrid blocks: 3.5 million parameters as residual, from scratch.

    Args:
        kind: residual blocks, densely connected layers, or blocks that are both, with attention.
        width: channels of the first stage, a multiple of 8; each later stage has twice as many.
        depth: blocks in each stage; a dense stage has two layers for each.
        separable: split 3x3 convolutions into one for each channel and one across channels: smaller, fewer operations.
        attention: squeeze_excitation weighs channels everywhere, self_attention joins places in the last stage;
            unless given, squeeze_excitation for hybrid and none for the others.
        stochastic_depth: share of images that skip the last block's branch; earlier ones are skipped less.
        dropout: share of features dropped before the last layer.
    """
    from classifier_training.models.nets.layers import OWN_INPUT
    from classifier_training.models.nets.stages import staged_network

    network = staged_network(
        num_classes,
        kind=kind,
        width=width,
        depth=depth,
        is_separable=separable,
        attention=attention or ("squeeze_excitation" if kind == "hybrid" else "none"),
        stochastic_depth=stochastic_depth,
        dropout=dropout,
    )
    return BuiltModel(network, OWN_INPUT, f"cnn_v2_{kind}")
