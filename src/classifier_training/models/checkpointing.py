"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept.

Chen et al. 2016 (arXiv:1604.06174). It works on any network, over the modules of its stages. What libraries bring
along for it runs batch norms a second time with all that follows: their statistics move twice a step. Here they move
once, so a run's results are those of the same run without it.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.models.stages import split_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


def checkpointed_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules that a network is recomputed by: the blocks of its stages, without the head.

    Raises:
        UserError: when it has none.
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
            "trainer.gradient_checkpointing=true: the network has no blocks of layers that could be computed again",
            "a network of blocks, such as resnet18 or those of timm",
            "trainer.gradient_checkpointing=false; data.batch_size=… with a smaller number saves memory too",
        )
    return found


@contextmanager
def gradient_checkpointing(network: nn.Module) -> Iterator[None]:
    """Keep no activations inside the blocks of a network while it is trained within.

    Dropout draws the same numbers again.

    Raises:
        UserError: when the network has no blocks.
    """
    modules = checkpointed_modules(network)
    for module in modules:
        # A partial over a bound method is bound to the copy when a network is copied, as averaged weights do.
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
    """Let batch norms in training keep count in copies that are thrown away."""
    counting = [one for one in module.modules() if one.training and getattr(one, "running_mean", None) is not None]
    with ExitStack() as stack:
        for norm in counting:
            for name, value in list(norm.named_buffers(recurse=False)):
                setattr(norm, name, value.clone())
                stack.callback(setattr, norm, name, value)
        yield
