"""Structured pruning: whole channels leave a trained network, which then is an ordinary, narrower one.

Channels that depend on each other, such as those that a residual sum joins, are removed together (Fang et al. 2023,
"DepGraph", arXiv:2301.12900), by torch-pruning. What remains is described by shapes alone: the network is built as
always, made narrower by the shapes of its weights, and given the weights. So a pruned run is read without pickle, and
without torch-pruning.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from classifier_training.core.errors import UserError, first_line
from classifier_training.core.register import register

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from classifier_training.core.types import BuiltModel

Importance = Literal["magnitude", "batch_norm"]

Widths = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""

PRUNED = "_pruned"
"""Ends the name of the architecture of a network that was pruned."""

MAX_RATIO = 0.95
"""Largest share of a layer's channels that is removed."""

NUM_TRIES = 8
"""Shares of channels that are tried: the last two differ by less than 1 %."""

ALIKE = 1e-4
"""Largest difference of a logit, of the largest one, between the pruned network and the one built again."""


@register(group="pruning", name="channels", extra="prune")
@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Removes channels from a trained network before it is trained on; a convolutional network is needed.

    Each layer loses the same share of its channels, those that matter least (Fang et al. 2023, arXiv:2301.12900).

    Args:
        keep: largest share of the network's FLOPs to keep, at the size of its images.
        importance: by what channels are ranked: magnitude, the norm of all weights that would leave with a channel (Li
            et al. 2017, arXiv:1608.08710), or batch_norm, the scale of their batch norms (Liu et al. 2017,
            arXiv:1708.06519).
        round_to: numbers of channels stay multiples of this, which processors like.
    """

    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    importance: Importance = "magnitude"
    round_to: Annotated[int, Field(ge=1, le=64)] = 8


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What pruning makes of a network; plain values.

    Args:
        widths: shapes of the tensors that become smaller, by name.
        num_flops: of the pruned network for one image, a multiply and an add counted as two.
        num_flops_before: of the network as it was.
        num_parameters: weights and biases of the pruned network.
        num_parameters_before: of the network as it was.
    """

    widths: Widths
    num_flops: int
    num_flops_before: int
    num_parameters: int
    num_parameters_before: int

    def __str__(self) -> str:
        shares = [
            f"{after / 1e6:.1f} of {before / 1e6:.1f} M {what} ({after / before:.0%})"
            for what, after, before in (
                ("FLOPs", self.num_flops, self.num_flops_before),
                ("parameters", self.num_parameters, self.num_parameters_before),
            )
        ]
        return f"{shares[0]} and {shares[1]} are kept"


def prune_network(built: BuiltModel, settings: Pruning, *, image_size: int) -> tuple[BuiltModel, PrunePlan]:
    """Remove the channels of a network that matter least; all outputs stay.

    The same weights are pruned in the same way each time. That the network, built again by the plan, computes what the
    pruned one does is checked here, on noise.

    Args:
        built: the network, left as it is.
        settings: how much of it is kept.
        image_size: side of the images in pixels, which the FLOPs depend on.

    Returns:
        The pruned network on the CPU, with "_pruned" at the end of its name, and what was removed.

    Raises:
        UserError: when the network cannot be pruned, or not so far.
    """
    import torch

    attending = [type(module).__name__ for module in built.network.modules() if "Attention" in type(module).__name__]
    if attending:
        # torch-pruning does not come to an end with some of them, and leaves heads of unequal width in others.
        raise _unprunable(built, f"it has layers of attention, {attending[0]}")
    network = copy.deepcopy(built.network).cpu()
    before, size_before = _flops(network, image_size), _num_parameters(network)
    # FLOPs fall as the share of removed channels rises: the smallest share that suffices is searched by halving.
    low, high = 0.0, MAX_RATIO
    found: nn.Module | None = None
    for number in range(NUM_TRIES):
        ratio = high if number == 0 else (low + high) / 2
        try:
            pruned = _remove(network, ratio, settings, image_size)
            flops = _flops(pruned, image_size)
        except Exception as error:
            # What torch-pruning raises for a network that it does not understand differs.
            raise _unprunable(built, first_line(error)) from error
        if flops <= settings.keep * before:
            found, high = pruned, ratio
        elif number == 0:
            raise UserError(
                f"pruning.keep={settings.keep:g}: {built.architecture} keeps {flops / before:.0%} of its FLOPs at "
                f"{image_size} px when {MAX_RATIO:.0%} of its channels are removed",
                "a share that can be reached",
                f"pruning.keep={min(0.95, flops / before + 0.1):.2f}, or pruning.round_to=1; or teach a smaller "
                "network: distill RUN model=student",
            )
        else:
            low = ratio
    assert found is not None
    state = found.state_dict()
    widths = widths_of(network, state)
    rebuilt = narrowed(network, widths)
    try:
        rebuilt.load_state_dict(state)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(2, 3, image_size, image_size, generator=generator)
        with torch.inference_mode():
            expected, given = found.eval()(noise), rebuilt.eval()(noise)
        is_same = torch.allclose(expected, given, rtol=0, atol=ALIKE * float(expected.abs().max()))
    except (RuntimeError, ValueError, TypeError) as error:
        raise _unprunable(built, first_line(error)) from error
    if not is_same:
        raise _unprunable(built, "built again with fewer channels, it computes something else")
    rebuilt.train(built.network.training)
    plan = PrunePlan(
        widths=widths,
        num_flops=_flops(rebuilt, image_size),
        num_flops_before=before,
        num_parameters=_num_parameters(rebuilt),
        num_parameters_before=size_before,
    )
    return as_pruned(built, rebuilt), plan


def as_pruned(built: BuiltModel, network: nn.Module) -> BuiltModel:
    """Put a narrower network in place of a built one, and say so in its name."""
    return dataclasses.replace(built, network=network, architecture=f"{unpruned_name(built.architecture)}{PRUNED}")


def is_pruned(architecture: str) -> bool:
    """Whether the network of that name was pruned: its weights say how wide its layers are."""
    return architecture.endswith(PRUNED)


def unpruned_name(architecture: str) -> str:
    """Name the network that a pruned one was made from."""
    return architecture.removesuffix(PRUNED)


def widths_of(
    network: nn.Module, state: Mapping[str, Tensor], *, class_axes: Mapping[str, int] | None = None
) -> Widths:
    """Return the shapes of those tensors of a network that have another one in given weights.

    Args:
        network: as it is built.
        state: the weights.
        class_axes: tensors of the head and their axis of classes, which stays the network's.
    """
    axes = class_axes or {}
    widths: Widths = {}
    for name, own in network.state_dict().items():
        if name not in state or state[name].ndim != own.ndim:
            continue
        shape = list(state[name].shape)
        if name in axes:
            shape[axes[name]] = own.shape[axes[name]]
        if shape != list(own.shape):
            widths[name] = tuple(shape)
    return widths


def with_widths(
    built: BuiltModel, state: Mapping[str, Tensor], *, class_axes: Mapping[str, int] | None = None
) -> BuiltModel:
    """Make a network as narrow as one that given weights were trained in; it stays as it is where they fit.

    Raises:
        UserError: when the weights are of another network.
    """
    widths = widths_of(built.network, state, class_axes=class_axes)
    return as_pruned(built, narrowed(built.network, widths)) if widths else built


def narrowed(network: nn.Module, widths: Mapping[str, Iterable[int]]) -> nn.Module:
    """Return a copy of a network with narrower layers, which have the first of the values that they had.

    Args:
        network: as it is built.
        widths: shapes of tensors by name, none of them larger than the network's.

    Raises:
        UserError: when the shapes are not those of such a network.
    """
    from torch import nn

    network = copy.deepcopy(network)
    was_depthwise: dict[nn.Module, bool] = {
        module: module.groups > 1 and module.groups == module.in_channels == module.out_channels
        for module in network.modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    }
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, shape in widths.items():
        owner, _, leaf = name.rpartition(".")
        sides = tuple(shape)
        value = own.get(name)
        if (
            value is None
            or value.ndim != len(sides)
            or any(new > old for new, old in zip(sides, value.shape, strict=True))
        ):
            raise UserError(
                f"the weights are not those of a pruned network: {name} has the shape {list(sides)}",
                f"at most {list(value.shape)}" if value is not None else "a layer of the network",
                "restore config.yaml and the weights from a copy of the run folder",
            )
        part = value.detach()[tuple(slice(side) for side in sides)].clone()
        is_learnt = isinstance(value, nn.Parameter)
        made = nn.Parameter(part, requires_grad=value.requires_grad) if is_learnt else part
        setattr(network.get_submodule(owner), leaf, made)
    for module in network.modules():
        _count_channels(module, is_depthwise=was_depthwise.get(module, False))
    return network


def _count_channels(module: Any, *, is_depthwise: bool) -> None:
    """Give a layer the numbers of channels that its tensors have."""
    from torch import nn

    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        module.out_channels = module.weight.shape[0]
        module.groups = module.out_channels if is_depthwise else module.groups
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:  # noqa: SLF001
        module.num_features = module.running_mean.shape[0]
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = module.weight.shape[0]


def _remove(network: nn.Module, ratio: float, settings: Pruning, image_size: int) -> nn.Module:
    """Return a copy of a network without the given share of its channels."""
    import torch
    import torch_pruning
    from torch import nn

    from classifier_training.models.stages import head_names

    network = copy.deepcopy(network).eval().requires_grad_(requires_grad=True)
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    # torch-pruning rounds what remains down, and leaves a layer as it is of which nothing would remain: here it is
    # rounded to the nearest multiple, of which one remains.
    half = settings.round_to / 2
    shares = {
        layer: max(0.0, min(ratio - half / layer.weight.shape[0], 1 - (2 * half + 0.5) / layer.weight.shape[0]))
        for layer in layers
    }
    importance = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
        "batch_norm": torch_pruning.importance.BNScaleImportance,
    }[settings.importance]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_pruning.pruner.BasePruner(
            network,
            torch.zeros(2, 3, image_size, image_size),
            importance=importance,
            pruning_ratio=ratio,
            pruning_ratio_dict=shares,
            round_to=settings.round_to,
            ignored_layers=[network.get_submodule(name) for name in head_names(network)],
        ).step()
    return network


def _flops(network: nn.Module, image_size: int) -> int:
    from classifier_training.models.cost import summarize

    return summarize(network, architecture="", image_size=image_size).num_flops


def _num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _unprunable(built: BuiltModel, reason: str) -> UserError:
    return UserError(
        f"pruning=channels: the channels of {built.architecture} cannot be pruned ({reason})",
        "a convolutional network, such as tf_efficientnet_lite0, resnet18 or student",
        "leave pruning out, and teach a smaller network: distill RUN model=student",
    )
