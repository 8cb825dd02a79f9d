"""timm's networks: any by its name there, and some by their own names."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import Field

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import register
from classifier_training.core.settings import PathText, Pretrained  # noqa: TC001 - the register reads them at run time
from classifier_training.core.types import BuiltModel, InputSpec, Weights
from classifier_training.models.bundled import package_of, with_bundled_weights
from classifier_training.models.names import HUB_PREFIXES
from classifier_training.models.stages import head_names
from classifier_training.models.weights import hub_access, load_weights_file, unfetched, wants_published

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


@register(group="model", name="timm")
def timm_model(
    num_classes: int,
    *,
    name: str,
    pretrained: Pretrained = "auto",
    weights: PathText | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> BuiltModel:
    """Any network of timm, by its name there.

    Args:
        name: as timm lists it, such as mobilenetv4_conv_small or convnext_tiny.fb_in22k.
        pretrained: start from the weights of that name, fetched the first time; auto: yes if there are any, unless
            model.weights or init_from names others.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer.
        drop_path: share of residual branches dropped (stochastic depth).

    Raises:
        UserError: when timm has no such network, or the weights cannot be fetched.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    is_pretrained = wants_published(pretrained, weights)
    architecture = _architecture(name)
    if not timm.is_model(architecture):
        close = nearest(architecture, timm.list_models() + timm.list_pretrained())
        raise UserError(
            f"model.name={name}: timm {timm.__version__} has no network of that name",
            f"a name that timm.list_models() gives, such as {', '.join(close) or 'resnet18'}",
            f"model.name={close[0]}" if close else "look the name up in timm's documentation",
        )
    # timm refuses arguments that an architecture does not have; only those that are set are passed.
    arguments: dict[str, Any] = {
        key: value for key, value in (("drop_rate", dropout), ("drop_path_rate", drop_path)) if value
    }
    is_untrained = is_pretrained and not timm.is_model_pretrained(architecture)
    if is_untrained and pretrained is True:
        raise UserError(
            f"model.pretrained=true: there are no trained weights of model.name={name}",
            "a network with trained weights, as timm.list_pretrained() names them",
            "leave model.pretrained out to start from random weights, or name a file: model.weights=…",
        )
    is_pretrained &= not is_untrained
    package = package_of(architecture)
    is_bundled = is_pretrained and package is not None and package.path is not None
    is_fetched = is_pretrained and not is_bundled
    with hub_access() if is_fetched else nullcontext() as no_connection:
        network = _create(architecture, name, is_fetched, num_classes, arguments, no_connection)
    if is_untrained:
        log.info("model.name=%s: there are no trained weights of it; it starts from random ones", name)
    found = _published(network, architecture) if is_fetched else None
    if weights is not None:
        # Some networks have two heads; their configuration then names both.
        heads = cast("dict[str, str | tuple[str, ...] | None]", network.pretrained_cfg)["classifier"]
        prefixes = (heads,) if isinstance(heads, str) else heads or head_names(network)
        found = load_weights_file(network, weights, head=tuple(f"{prefix}." for prefix in prefixes))
    config: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    spec = InputSpec(size=config["input_size"][1], mean=config["mean"], std=config["std"])
    built = BuiltModel(network, spec, architecture, found)
    return with_bundled_weights(built) if is_bundled else built


def _architecture(name: str) -> str:
    """Return a name without the prefix of a hub."""
    return name.removeprefix(next((prefix for prefix in HUB_PREFIXES if name.startswith(prefix)), ""))


def timm_names(*, tags: bool) -> list[str]:
    """List timm's networks: architectures, or with tags, each with every set of its weights."""
    import timm

    return list(timm.list_pretrained() if tags else timm.list_models())


def has_weights(name: str) -> bool:
    """Whether there are trained weights of a name."""
    import timm

    return bool(timm.is_model_pretrained(_architecture(name)))


def _published(network: nn.Module, architecture: str) -> Weights:
    """Describe the weights that timm has fetched."""
    known = cast("dict[str, Any]", network.pretrained_cfg)
    tag = known.get("tag")
    name = architecture if "." in architecture or not tag else f"{architecture}.{tag}"
    source = f"Hugging Face Hub, {known['hf_hub_id']}" if known.get("hf_hub_id") else known.get("url") or "timm"
    return Weights(name, source, known.get("license"))


def _create(
    architecture: str,
    name: str,
    pretrained: bool,  # noqa: FBT001
    num_classes: int,
    arguments: dict[str, Any],
    no_connection: Exception | None,
) -> nn.Module:
    import timm
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=num_classes, **arguments)
    except TypeError as error:
        raise UserError(
            f"{name} has no setting {' or '.join(arguments)} ({error})",
            "settings that the network has",
            "leave model.dropout and model.drop_path out",
        ) from error
    except (OSError, RuntimeError, HfHubHTTPError) as error:
        if not pretrained:
            tags = [known for known in timm.list_pretrained() if known.startswith(f"{architecture.partition('.')[0]}.")]
            raise UserError(
                f"model.name={name}: timm cannot build it ({error})",
                f"one of {enumerate_words(tags)}" if tags else "a name that timm.list_models() gives",
                f"model.name={architecture.partition('.')[0]}",
            ) from error
        raise unfetched(
            f"the trained weights of {name}",
            no_connection or error,
            cached_at=f"$HF_HOME/hub (~/.cache/huggingface unless set), where {_download(architecture)} puts them",
        ) from error


def _download(architecture: str) -> str:
    """Return the command that fetches the trained weights of an architecture into the cache of the hub."""
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(architecture)
    return f"`hf download {known.hf_hub_id if known and known.hf_hub_id else f'timm/{architecture}'}`"


@dataclass(frozen=True, kw_only=True)
class Lite:
    """A network of timm whose trained weights are in a Python package.

    Args:
        pretrained: start from the ImageNet weights of the package, without a connection; auto: yes, unless
            model.weights or init_from names others.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer; the network's own, none, unless given.
    """

    architecture: ClassVar[str]

    pretrained: Pretrained = "auto"
    weights: PathText | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None

    def __call__(self, num_classes: int) -> BuiltModel:
        """Build the network.

        Raises:
            UserError: when the weights cannot be fetched.
        """
        is_pretrained = wants_published(self.pretrained, self.weights)
        built = timm_model(
            num_classes, name=self.architecture, pretrained=False, weights=self.weights, dropout=self.dropout or 0.0
        )
        return with_bundled_weights(built) if is_pretrained else built


@register(group="model", name="tf_efficientnet_lite0")
class EfficientNetLite0(Lite):
    """EfficientNet-Lite0 (Tan and Le 2019), of timm: 3.4 million parameters; its weights come with this package."""

    architecture = "tf_efficientnet_lite0"


@register(group="model", name="tf_efficientnet_lite1")
class EfficientNetLite1(Lite):
    """EfficientNet-Lite1, of timm: 4.1 million parameters, at 240 pixels; its weights come by the extra lite."""

    architecture = "tf_efficientnet_lite1"


@register(group="model", name="tf_efficientnet_lite2")
class EfficientNetLite2(Lite):
    """EfficientNet-Lite2, of timm: 4.8 million parameters, at 260 pixels; its weights come by the extra lite."""

    architecture = "tf_efficientnet_lite2"


@register(group="model", name="mobilenetv4_conv_medium")
def mobilenetv4_conv_medium(
    num_classes: int,
    *,
    pretrained: Pretrained = "auto",
    weights: PathText | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> BuiltModel:
    """MobileNetV4-Conv-Medium (Qin et al. 2024), of timm: 8.4 million parameters, for screens and slides.

    Args:
        pretrained: start from timm's mobilenetv4_conv_medium.e500_r256_in1k, fetched the first time; auto: yes, unless
            model.weights or init_from names others.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer.

    Raises:
        UserError: when the weights cannot be fetched.
    """
    return timm_model(
        num_classes,
        name="mobilenetv4_conv_medium.e500_r256_in1k",
        pretrained=pretrained,
        weights=weights,
        dropout=dropout,
    )
