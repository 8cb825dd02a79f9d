"""Any network that timm knows by name."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import register
from classifier_training.core.settings import PathText  # noqa: TC001 - the register reads it at run time
from classifier_training.core.types import BuiltModel, InputSpec
from classifier_training.models.hub import hub_access
from classifier_training.models.weights import load_weights_file, refuse_two_starts, unfetched

if TYPE_CHECKING:
    from torch import nn


@register(group="model", name="timm")
def timm_model(
    num_classes: int,
    *,
    name: str,
    pretrained: bool = False,
    weights: PathText | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> BuiltModel:
    """Any network of timm, by its name there.

    Args:
        name: as timm lists it, such as mobilenetv4_conv_small or convnext_tiny.fb_in22k.
        pretrained: start from the weights that the name stands for, fetched the first time.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer.
        drop_path: share of residual branches dropped (stochastic depth).

    Raises:
        UserError: when timm has no such network, or weights are wanted and cannot be had.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    refuse_two_starts(pretrained=pretrained, weights=weights)
    architecture = name.removeprefix("timm/").removeprefix("hf_hub:timm/")
    if not timm.is_model(architecture):
        close = nearest(architecture, timm.list_models() + timm.list_pretrained())
        raise UserError(
            f"model.name={name}: timm {timm.__version__} has no network of that name",
            f"a name that timm.list_models() gives, such as {', '.join(close) or 'resnet18'}",
            f"model.name={close[0]}" if close else "look the name up in timm's documentation",
        )
    # timm refuses arguments that an architecture does not have; only those asked for are passed.
    asked: dict[str, Any] = {
        key: value for key, value in (("drop_rate", dropout), ("drop_path_rate", drop_path)) if value
    }
    with hub_access() if pretrained else nullcontext() as no_connection:
        network = _create(architecture, name, pretrained, num_classes, asked, no_connection)
    if weights is not None:
        # Some networks have two heads; their configuration then names both.
        heads = cast("dict[str, str | tuple[str, ...]]", network.pretrained_cfg)["classifier"]
        prefixes = (heads,) if isinstance(heads, str) else heads
        load_weights_file(network, weights, head=tuple(f"{prefix}." for prefix in prefixes))
    config: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    spec = InputSpec(size=config["input_size"][1], mean=config["mean"], std=config["std"])
    return BuiltModel(network, spec, architecture, pretrained or weights is not None)


def timm_names(*, tags: bool) -> list[str]:
    """List timm's networks: architectures, or each with every set of weights that there is for it."""
    import timm

    return list(timm.list_pretrained() if tags else timm.list_models())


def has_weights(name: str) -> bool:
    """Whether there are trained weights of that name."""
    import timm

    return bool(timm.is_model_pretrained(name))


def _create(
    architecture: str,
    name: str,
    pretrained: bool,  # noqa: FBT001
    num_classes: int,
    asked: dict[str, Any],
    no_connection: Exception | None,
) -> nn.Module:
    import timm
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=num_classes, **asked)
    except TypeError as error:
        raise UserError(
            f"{name} does not take {' or '.join(asked)} ({error})",
            "settings that the network has",
            "leave model.dropout and model.drop_path out",
        ) from error
    except (OSError, RuntimeError, HfHubHTTPError) as error:
        if not pretrained:
            tags = [known for known in timm.list_pretrained() if known.startswith(f"{architecture.partition('.')[0]}.")]
            raise UserError(
                f"model.name={name}: timm cannot make it ({error})",
                f"one of {enumerate_words(tags)}" if tags else "a name that timm.list_models() gives",
                f"model.name={architecture.partition('.')[0]}",
            ) from error
        raise unfetched(
            name, no_connection or error, cached_at="$HF_HOME/hub (~/.cache/huggingface unless set)"
        ) from error
