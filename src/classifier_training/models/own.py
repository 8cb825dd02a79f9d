"""The networks of this package, for training from random weights: cnn_v1, cnn_v2 and student."""

from __future__ import annotations

from typing import Annotated, Literal

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
    """Four blocks of 32, 64, 128 and 256 channels: 1.2 million parameters, for small images, from scratch.

    Args:
        residual: add each block's input to its output.
        num_convolutions: of 3x3 in each block, before its max-pool.
        dropout: share of channels dropped after each block, and of features before the last layer.
    """
    from classifier_training.models.networks import OWN_INPUT, plain_network

    network = plain_network(num_classes, residual=residual, num_convolutions=num_convolutions, dropout=dropout)
    return BuiltModel(network, OWN_INPUT, "cnn_v1_residual" if residual else "cnn_v1")


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
    from classifier_training.models.networks import OWN_INPUT, staged_network

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
    from classifier_training.models.networks import OWN_INPUT, light_network

    return BuiltModel(light_network(num_classes, width=width, dropout=dropout), OWN_INPUT, "student")
