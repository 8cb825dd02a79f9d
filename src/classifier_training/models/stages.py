"""The stages of a network, from stem to head, for freezing, layer-wise learning rates and gradient checkpointing.

Stages are found from the network itself: timm's networks state how their parameters are grouped, others are split along
their modules.

Gradient checkpointing recomputes activations in the backward pass instead of keeping them (Chen et al. 2016,
arXiv:1604.06174). The implementations of libraries run batch norms a second time with everything that follows, so their
statistics are updated twice a step. Here they are updated once, so a run's results are the same without checkpointing.
"""

from __future__ import annotations

import functools
import itertools
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

MIN_STAGES = 3
"""Fewest stages that a backbone is split into, if it has as many."""


@dataclass(frozen=True)
class Stage:
    """Neighbouring layers.

    Args:
        name: of its modules.
        parameters: their dotted names in the network.
    """

    name: str
    parameters: tuple[str, ...]


def head_names(network: nn.Module) -> tuple[str, ...]:
    """Return the dotted names of the layers that give the logits; mostly one, none if there is no such layer.

    timm names them; in other networks it is the last linear or convolutional layer.
    """
    from torch import nn

    named = dict(network.named_modules())
    prefix, inner = _timm_part(network)
    if inner is not None:
        found = inner.get_classifier()  # type: ignore[operator]
        heads = found if isinstance(found, (tuple, list, nn.ModuleList)) else (found,)
        return tuple(name for name, module in inner.named_modules(prefix=prefix) if any(module is one for one in heads))
    layers = [name for name, module in named.items() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return tuple(layers[-1:])


def split_stages(network: nn.Module) -> tuple[Stage, ...]:
    """Split a network in stages, the stem first and the head last; each parameter is in one of them.

    timm's networks are grouped by timm (`group_matcher`). In others the largest module is replaced by its children
    until there are three stages or more; a sequence of plain layers ends at a pooling layer, and modules of only norms
    and biases belong to the stage before them.
    """
    heads = head_names(network)
    names = [name for name, _ in network.named_parameters()]
    head = tuple(name for name in names if _below(name, heads))
    backbone = {name: parameter for name, parameter in network.named_parameters() if name not in head}
    stages = _timm_stages(network, backbone) or _generic_stages(network, backbone)
    return (*stages, *([Stage(", ".join(heads), head)] if head else []))


def freeze_stages(
    network: nn.Module, stages: Sequence[Stage], num_frozen: int, *, freezes_statistics: bool = False
) -> None:
    """Freeze the first stages of a network in training mode, and unfreeze the others.

    Frozen parameters require no gradients; as the stem is frozen first, no graph is built for them. Frozen batch norms
    use their running statistics and do not update them.

    Args:
        network: changed in place.
        stages: of it.
        num_frozen: number of frozen stages, counted from the stem.
        freezes_statistics: whether the batch norms of the other stages use their running statistics, too.
    """
    frozen = {name for stage in stages[:num_frozen] for name in stage.parameters}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    # A batch norm without parameters is frozen with the layers before it.
    is_frozen = num_frozen > 0
    for prefix, module in network.named_modules():
        own = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)]
        is_frozen = own[-1] in frozen if own else is_frozen
        if getattr(module, "running_mean", None) is not None:
            module.train(network.training and not is_frozen and not freezes_statistics)


def _timm_part(network: nn.Module) -> tuple[str, nn.Module | None]:
    """The timm network that a network is or wraps, with its dotted name."""
    for name, module in network.named_modules():
        if hasattr(module, "get_classifier") and hasattr(module, "group_matcher"):
            return name, module
    return "", None


def _timm_stages(network: nn.Module, backbone: Mapping[str, nn.Parameter]) -> list[Stage]:
    from timm.models import group_parameters

    prefix, inner = _timm_part(network)
    if inner is None or any(not _below(name, (prefix,)) for name in backbone):
        return []
    matcher = inner.group_matcher(coarse=True)  # type: ignore[operator]
    found = group_parameters(inner, matcher)
    start = f"{prefix}." if prefix else ""
    groups = [[start + name for name in found[number] if start + name in backbone] for number in sorted(found)]
    return _merge([Stage(_shared_name(group, backbone), tuple(group)) for group in groups if group], backbone)


class _Part(NamedTuple):
    """A module with its parameters, or parameters that belong to no child module."""

    prefix: str
    module: nn.Module | None
    parameters: tuple[str, ...]

    @property
    def is_layer(self) -> bool:
        return self.module is None or not any(True for _ in self.module.children())

    @property
    def is_pooling(self) -> bool:
        return self.module is not None and "Pool" in type(self.module).__name__


def _generic_stages(network: nn.Module, backbone: Mapping[str, nn.Parameter]) -> list[Stage]:
    parts = [_Part("", network, tuple(backbone))]
    while len(stages := _merge(_gather(parts), backbone)) < MIN_STAGES:
        containers = [part for part in parts if part.parameters and not part.is_layer]
        if not containers:
            break
        widest = max(containers, key=lambda part: sum(backbone[name].numel() for name in part.parameters))
        place = parts.index(widest)
        parts[place : place + 1] = _open(widest)
    return stages


def _open(part: _Part) -> list[_Part]:
    """The children of a module, after its own parameters."""
    assert part.module is not None
    start = f"{part.prefix}." if part.prefix else ""
    own = tuple(name for name in part.parameters if "." not in name.removeprefix(start))
    opened = [_Part(own[0], None, own)] if own else []
    for name, child in part.module.named_children():
        inside = tuple(parameter for parameter in part.parameters if _below(parameter, (start + name,)))
        opened.append(_Part(start + name, child, inside))
    return opened


def _gather(parts: Sequence[_Part]) -> list[Stage]:
    """Make a stage of each container, and of each sequence of plain layers up to the next pooling layer."""
    stages: list[Stage] = []
    run: list[_Part] = []

    def end_run() -> None:
        if run:
            first, last = run[0].prefix, run[-1].prefix
            name = first if first == last else f"{first} to {last}"
            stages.append(Stage(name, tuple(parameter for part in run for parameter in part.parameters)))
            run.clear()

    for part in parts:
        if part.is_layer:
            run.extend([part] if part.parameters else [])
            if part.is_pooling:
                end_run()
        elif part.parameters:
            end_run()
            stages.append(Stage(part.prefix, part.parameters))
    end_run()
    return stages


def _merge(stages: Sequence[Stage], backbone: Mapping[str, nn.Parameter]) -> list[Stage]:
    """Merge stages of only norms and biases into the stage before them."""
    merged: list[Stage] = []
    for stage in stages:
        if merged and not any(backbone[name].ndim > 1 for name in stage.parameters):
            stage = Stage(merged[-1].name, merged.pop().parameters + stage.parameters)
        merged.append(stage)
    return merged


def _below(name: str, prefixes: Sequence[str]) -> bool:
    return any(not prefix or name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _shared_name(names: Sequence[str], backbone: Mapping[str, nn.Parameter]) -> str:
    """Return the longest prefix that only these dotted names have; else the first and the last module."""
    paths = [name.split(".") for name in names]
    shared = [words[0] for words in itertools.takewhile(lambda words: len(set(words)) == 1, zip(*paths, strict=False))]
    for depth in range(1, len(shared) + 1):
        prefix = ".".join(shared[:depth])
        if not any(_below(name, (prefix,)) for name in backbone if name not in names):
            return prefix
    first, last = (".".join(path[: len(shared) + 1]) for path in (paths[0], paths[-1]))
    return f"{first} to {last}"


def checkpointed_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules that are recomputed: the blocks of a network's stages, without the head.

    Raises:
        UserError: when there are none.
    """
    from torch import nn

    *backbone, _ = split_stages(network)
    stage_of = {name: number for number, stage in enumerate(backbone) for name in stage.parameters}
    found: list[nn.Module] = []

    def visit(module: nn.Module, prefix: str) -> None:
        children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
        own = {stage_of.get(f"{prefix}{name}") for name, _ in module.named_parameters()}
        # A list of modules is never called itself.
        is_called = type(module).forward is not nn.Module.forward
        if children and is_called and prefix and len(own) == 1 and None not in own:
            found.append(module)
            return
        for name, child in children:
            visit(child, f"{name}.")

    visit(network, "")
    if not found:
        raise UserError(
            "trainer.gradient_checkpointing=true: the network has no blocks of layers that could be recomputed",
            "a network of blocks, such as resnet18 or those of timm",
            "trainer.gradient_checkpointing=false; or a smaller data.batch_size=…, which saves memory, too",
        )
    return found


@contextmanager
def gradient_checkpointing(network: nn.Module) -> Iterator[None]:
    """Train a network inside the block without keeping the activations of its blocks.

    Dropout uses the same random numbers in the second forward pass.

    Raises:
        UserError: when the network has no blocks.
    """
    modules = checkpointed_modules(network)
    for module in modules:
        # A partial of a bound method is bound to the copy when a network is copied, as for averaged weights.
        module.forward = functools.partial(_checkpointed, module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _checkpointed(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    module = forward.__self__  # type: ignore[attr-defined]
    if not (module.training and torch.is_grad_enabled()):
        return forward(*arguments, **named)
    return checkpoint(
        forward,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=True,
        context_fn=lambda: (nullcontext(), _statistics_at_rest(module)),
        **named,
    )


@contextmanager
def _statistics_at_rest(module: nn.Module) -> Iterator[None]:
    """Let batch norms in training update copies of their statistics, which are discarded."""
    counting = [one for one in module.modules() if one.training and getattr(one, "running_mean", None) is not None]
    with ExitStack() as stack:
        for norm in counting:
            for name, value in list(norm.named_buffers(recurse=False)):
                setattr(norm, name, value.clone())
                stack.callback(setattr, norm, name, value)
        yield
