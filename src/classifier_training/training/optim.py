"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from classifier_training.core.errors import UserError, nearest, reason_of
from classifier_training.core.register import register
from classifier_training.core.settings import Alias, Often
from classifier_training.models.stages import split_stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from torch.optim import Optimizer

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
WeightDecay = Annotated[float, Field(ge=0), Alias("weight_decay", "wd")]
LearningRate = Annotated[Positive | Literal["auto"], Alias("lr", "lr0", "learning_rate")]
"""A number, or auto for the one that a range test finds; the run puts it in before an optimizer is made."""
Share = Annotated[float, Field(ge=0, lt=1)]
LayerDecay = Annotated[float, Field(gt=0, le=1)]


def parameter_groups(
    network: nn.Module, weight_decay: float, *, lr: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Split trainable parameters in two: weights decay, biases and norms (one dimension or none) do not.

    With a layer decay below 1 each stage of the network is split so, the head first, with a learning rate of
    lr * layer_decay**(stages between it and the logits): Clark et al. 2020 (arXiv:2003.10555), Bao et al. 2022
    (arXiv:2106.08254).

    Raises:
        UserError: when a layer decay is asked for and the network is all head.
    """
    if layer_decay == 1:
        return _decayed_and_spared([p for p in network.parameters() if p.requires_grad], weight_decay)
    stages = split_stages(network)
    if len(stages) < 2:
        raise UserError(
            f"optimizer.layer_decay={layer_decay:g}: the network has no layers below its head",
            "a network of several stages",
            "optimizer.layer_decay=1",
        )
    groups: list[dict[str, Any]] = []
    for depth, stage in enumerate(reversed(stages)):
        own = [network.get_parameter(name) for name in stage.parameters]
        split = _decayed_and_spared([p for p in own if p.requires_grad], weight_decay)
        groups += [{**group, "lr": lr * layer_decay**depth} for group in split if group["params"]]
    return groups


def _decayed_and_spared(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _resolved(lr: LearningRate) -> float:
    if isinstance(lr, str):
        raise UserError(
            "optimizer.lr=auto where no range test has been made",
            "a number",
            "optimizer.lr=0.001, or let train find it",
        )
    return lr


# `fused` is the run's to know: one kernel steps all weights, but with loss scaling it unscales gradients by itself, and
# clipping would come too early.


@register(group="optimizer", name="adamw")
def adamw(
    network: nn.Module,
    fused: bool,  # noqa: FBT001 - what the run knows is positional
    *,
    lr: Annotated[LearningRate, Often(7)] = 1e-3,
    weight_decay: WeightDecay = 0.05,
    beta1: Share = 0.9,
    beta2: Share = 0.999,
    layer_decay: LayerDecay = 1.0,
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), the default.

    Args:
        lr: highest learning rate; auto finds one by a range test before training.
        weight_decay: pull of weights towards 0; biases and norms are left alone.
        beta1: memory of the gradient's mean.
        beta2: memory of the gradient's square.
        layer_decay: learning rate of a stage of layers over that of the next one towards the head; 1 for all alike.
    """
    from torch.optim import AdamW

    rate = _resolved(lr)
    groups = parameter_groups(network, weight_decay, lr=rate, layer_decay=layer_decay)
    return AdamW(groups, lr=rate, betas=(beta1, beta2), fused=fused)


@register(group="optimizer", name="sgd")
def sgd(
    network: nn.Module,
    fused: bool,  # noqa: FBT001 - what the run knows is positional
    *,
    lr: Annotated[LearningRate, Often(7)] = 0.1,
    momentum: Share = 0.9,
    nesterov: bool = True,
    weight_decay: WeightDecay = 5e-4,
    layer_decay: LayerDecay = 1.0,
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        lr: highest learning rate; auto finds one by a range test before training.
        momentum: memory of past gradients.
        nesterov: look ahead by the momentum.
        weight_decay: pull of weights towards 0; biases and norms are left alone.
        layer_decay: learning rate of a stage of layers over that of the next one towards the head; 1 for all alike.
    """
    from torch.optim import SGD

    rate = _resolved(lr)
    return SGD(
        parameter_groups(network, weight_decay, lr=rate, layer_decay=layer_decay),
        lr=rate,
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
        fused=fused,
    )


@register(group="optimizer", name="timm")
def timm_optimizer(
    network: nn.Module,
    fused: bool,  # noqa: ARG001, FBT001 - what the run knows is positional
    *,
    name: str,
    lr: Annotated[LearningRate, Often(7)] = 1e-3,
    weight_decay: WeightDecay = 0.05,
    momentum: Share | None = None,
    layer_decay: LayerDecay = 1.0,
) -> Optimizer:
    """Any optimizer of timm, by its name there.

    Their learning rates differ: Lion's is 3 to 10 times smaller than AdamW's (Chen et al. 2023, arXiv:2302.06675).

    Args:
        name: as timm.optim.list_optimizers() gives it, such as lion, lamb, muon or nadamuon.
        lr: highest learning rate; auto finds one by a range test before training.
        weight_decay: pull of weights towards 0; biases and norms are left alone.
        momentum: memory of past gradients, of optimizers that have it; None for the optimizer's own.
        layer_decay: learning rate of a stage of layers over that of the next one towards the head; 1 for all alike.

    Raises:
        UserError: when timm has no such optimizer, when it needs a package that is missing or second derivatives, or
            when it refuses the settings.
    """
    from timm.optim import get_optimizer_class, list_optimizers  # type: ignore[attr-defined] # not in its __all__

    rate = _resolved(lr)
    # It needs gradients of gradients, which a training step does not keep.
    names = [str(one) for one in list_optimizers() if one != "adahessian"]
    if name not in names:
        close = nearest(name, names)
        raise UserError(
            f"optimizer.name={name}: timm has no such optimizer that can be used here",
            f"a name that timm.optim.list_optimizers() gives, such as {', '.join(close) or 'lion'}; not adahessian",
            f"optimizer.name={close[0]}" if close else "look the name up in timm's documentation",
        )
    groups = parameter_groups(network, weight_decay, lr=rate, layer_decay=layer_decay)
    given: dict[str, Any] = {} if momentum is None else {"momentum": momentum}
    try:
        make = cast("Callable[..., Optimizer]", get_optimizer_class(name))
        return make(groups, lr=rate, weight_decay=weight_decay, **given)
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        raise UserError(
            f"optimizer.name={name}: timm cannot make it ({reason_of(error)})",
            "an optimizer whose packages are installed and that takes these settings",
            "leave optimizer.momentum out" if given else "optimizer=adamw",
        ) from error


@dataclass(frozen=True)
class SchedulePlan:
    """What a schedule must know of the run.

    Args:
        total_steps: optimizer steps in the whole run.
        monitor: metric that decides whether the run gets better, as logged.
        mode: max or min.
        place: where a step, counted from 0, is among these; elsewhere than its number once the length was corrected.
    """

    total_steps: int
    monitor: str
    mode: str
    place: Callable[[int], float] = float


@register(group="scheduler", name="cosine")
def cosine(
    optimizer: Optimizer,
    plan: SchedulePlan,
    *,
    warmup_fraction: Share = 0.1,
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01,
) -> dict[str, Any]:
    """Linear warm-up, then a cosine down, step by step (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        warmup_fraction: share of all steps in which the learning rate rises.
        final_lr_ratio: last learning rate over the highest.
    """
    from torch.optim.lr_scheduler import LambdaLR

    def factor(step: int) -> float:
        return warmup_cosine(
            plan.place(step), plan.total_steps, warmup_fraction=warmup_fraction, final_lr_ratio=final_lr_ratio
        )

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


@register(group="scheduler", name="one_cycle")
def one_cycle(
    optimizer: Optimizer,
    plan: SchedulePlan,
    *,
    warmup_fraction: Share = 0.3,
    initial_lr_ratio: Annotated[float, Field(gt=0, le=1)] = 0.04,
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 4e-6,
    max_momentum: Share = 0.95,
    min_momentum: Share = 0.85,
) -> dict[str, Any]:
    """Up and down once, and momentum the other way, for short runs (Smith & Topin 2018, arXiv:1708.07120).

    Momentum is the optimizer's own, or the first beta of AdamW; without momentum there is none to move.

    Args:
        warmup_fraction: share of all steps in which the learning rate rises.
        initial_lr_ratio: first learning rate over the highest.
        final_lr_ratio: last learning rate over the highest.
        max_momentum: at the first step and at the last; it takes the place of the optimizer's.
        min_momentum: where the learning rate is highest.
    """
    from classifier_training.training.one_cycle import OneCycle, one_cycle_value

    def along(start: float, middle: float, end: float) -> Callable[[int], float]:
        value = functools.partial(
            one_cycle_value,
            total_steps=plan.total_steps,
            start=start,
            middle=middle,
            end=end,
            warmup_fraction=warmup_fraction,
        )
        return lambda step: value(plan.place(step))

    rate, momentum = along(initial_lr_ratio, 1.0, final_lr_ratio), along(max_momentum, min_momentum, max_momentum)
    return {"scheduler": OneCycle(optimizer, rate, momentum), "interval": "step"}


@register(group="scheduler", name="plateau")
def plateau(
    optimizer: Optimizer,
    plan: SchedulePlan,
    *,
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    patience: Annotated[int, Field(ge=0)] = 4,
    min_lr: NonNegative = 1e-6,
) -> dict[str, Any]:
    """Lower the learning rate when the run's monitored metric has stopped improving.

    Args:
        factor: what the learning rate is multiplied by.
        patience: epochs without improvement that are waited for.
        min_lr: lowest learning rate.
    """
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    scheduler = ReduceLROnPlateau(optimizer, mode=plan.mode, factor=factor, patience=patience, min_lr=min_lr)  # type: ignore[arg-type]
    return {"scheduler": scheduler, "interval": "epoch", "monitor": plan.monitor}


@register(group="scheduler", name="constant")
def constant(optimizer: Optimizer, plan: SchedulePlan) -> dict[str, Any]:  # noqa: ARG001
    """Keep the learning rate as it is."""
    from torch.optim.lr_scheduler import ConstantLR

    return {"scheduler": ConstantLR(optimizer, factor=1.0), "interval": "epoch"}


def warmup_cosine(step: float, total_steps: int, *, warmup_fraction: float, final_lr_ratio: float) -> float:
    """Factor of the learning rate at a step counted from 0, in (0, 1]."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
    return final_lr_ratio + (1 - final_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2
