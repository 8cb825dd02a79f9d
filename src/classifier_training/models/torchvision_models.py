"""torchvision's classifiers: any by its name there, and common ones by their own names."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from classifier_training.core.errors import UserError, enumerate_words, first_line, nearest
from classifier_training.core.register import register
from classifier_training.core.settings import PathText, Pretrained  # noqa: TC001 - the register reads them at run time
from classifier_training.core.types import BuiltModel, InputSpec, Weights
from classifier_training.models.head import class_layers, drop_before
from classifier_training.models.weights import load_state, load_weights_file, unfetched, wants_published

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum

log = logging.getLogger(__name__)

IMAGENET = InputSpec(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
DENSE_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
"""Old tensor names in the files of DenseNets; module names cannot contain a dot any more."""

HALVES = (0.5, 0.5, 0.5)

USUAL_TAG = "IMAGENET1K_V1"
"""Weights of the original recipes. Later ones score higher on ImageNet, but several transfer worse to other data."""

LICENSE = "BSD-3-Clause, torchvision's own; the training data of the weights may add further terms"
LICENSES = {"SWAG": "CC-BY-NC-4.0"}
"""Licenses of published weights by a part of their name, as in torchvision's README; of all others it is the above."""

AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
"""Auxiliary outputs in the middle of a network, which batch norm has made unnecessary."""


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """A network of torchvision whose last layer fits the data's classes.

    Args:
        pretrained: start from ImageNet weights, fetched the first time; auto: yes, unless model.weights or init_from
            names others.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer; the network's own unless given.
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
        return torchvision_model(
            num_classes,
            name=self.architecture,
            pretrained=self.pretrained,
            weights=self.weights,
            dropout=self.dropout,
        )


@register(group="model", name="torchvision")
def torchvision_model(
    num_classes: int,
    *,
    name: str,
    pretrained: Pretrained = "auto",
    weights: PathText | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None,
) -> BuiltModel:
    """Any classifier of torchvision, by its name there.

    Args:
        name: as torchvision lists it, such as convnext_tiny; with published weights of a name, resnet50.IMAGENET1K_V2.
        pretrained: start from ImageNet weights, fetched the first time; auto: yes, unless model.weights or init_from
            names others.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer; the network's own unless given.

    Raises:
        UserError: when torchvision has no such network, or the weights cannot be fetched.
    """
    is_pretrained = wants_published(pretrained, weights)
    architecture, published = _find(name)
    heads = class_layers(lambda number: _create(architecture, published, number))
    replaced = tuple(f"{part}." for part in (*heads, *AUXILIARY.get(architecture, ())))
    network = _create(architecture, published, num_classes)
    found = _load_published(network, architecture, published, replaced) if is_pretrained else None
    if weights is not None:
        found = load_weights_file(network, weights, head=replaced)
    if dropout is not None:
        drop_before(network, heads, dropout)
    return BuiltModel(network, _input_spec(architecture, published), architecture, found)


def torchvision_names() -> list[str]:
    """List torchvision's classifiers; its networks for detection, segmentation and video are others."""
    from torchvision import models

    return list(models.list_models(module=models))


def _find(name: str) -> tuple[str, WeightsEnum]:
    """Return the architecture and the published weights of a name.

    Raises:
        UserError: when there is none of that name.
    """
    import torchvision
    from torchvision.models import get_model_weights

    architecture, _, tag = name.partition(".")
    names = torchvision_names()
    if architecture not in names:
        close = nearest(architecture, names)
        raise UserError(
            f"model.name={name}: torchvision {torchvision.__version__} has no classifier of that name",
            f"a name that torchvision lists, such as {', '.join(close) or 'resnet18'}",
            f"model.name={close[0]}" if close else "classifier-training models '*' lists them",
        )
    tags = get_model_weights(architecture).__members__
    usual = USUAL_TAG if USUAL_TAG in tags else next(iter(tags))
    if tag and tag not in tags:
        close = nearest(tag, tags) or [usual]
        raise UserError(
            f"model.name={name}: torchvision has no weights of that name for {architecture}",
            f"one of {enumerate_words(tags)}",
            f"model.name={architecture}.{close[0]}",
        )
    return architecture, tags[tag or usual]


def _create(architecture: str, published: WeightsEnum, num_classes: int) -> nn.Module:
    # These two warn unless init_weights is given, and return a tuple in training unless aux_logits is off.
    settings = {"aux_logits": False, "init_weights": True} if architecture in AUXILIARY else {}
    return _build(architecture, published, num_classes, **settings)


def _published_network(architecture: str, published: WeightsEnum) -> nn.Module:
    """Build the network of published weights, with random weights."""
    settings = {"init_weights": False} if architecture in AUXILIARY else {}
    return _build(architecture, published, len(published.meta["categories"]), **settings)


def _build(architecture: str, published: WeightsEnum, num_classes: int, **settings: bool) -> nn.Module:
    """Build a network for images of the size that its weights were trained on, which some take no other than."""
    from torchvision.models import get_model

    size = {"image_size": published.meta["min_size"][0]} if architecture.startswith("vit_") else {}
    network: nn.Module = get_model(architecture, weights=None, num_classes=num_classes, **settings, **size)
    return network


def _load_published(network: nn.Module, architecture: str, published: WeightsEnum, head: tuple[str, ...]) -> Weights:
    import torch
    import torchvision

    file = published.url.rpartition("/")[2]
    if not Path(torch.hub.get_dir(), "checkpoints", file).exists():
        log.info("fetching the pretrained weights of %s: %s", architecture, published.url)
    try:
        # torchvision's own builder would unpickle a cached file. torch prints while it fetches.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
        source = _published_network(architecture, published)
        for name in [name for name in state if DENSE_LAYER.match(name)]:
            state[DENSE_LAYER.sub(r"\1\2", name)] = state.pop(name)
        source.load_state_dict(state)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the file {file} contains more than tensors and was not loaded ({first_line(error)})",
            "the weights that torchvision publishes",
            f"remove {Path(torch.hub.get_dir(), 'checkpoints', file)}, to fetch it again",
        ) from error
    except (OSError, RuntimeError) as error:
        cache = "$TORCH_HOME/hub/checkpoints (~/.cache/torch unless set)"
        came = f"the trained weights of {architecture}"
        raise unfetched(came, error, cached_at=f"{cache} as {file}") from error
    load_state(network, source.state_dict(), head=head, came=f"the file {file}")
    terms = next((words for part, words in LICENSES.items() if part in published.name), LICENSE)
    return Weights(f"{architecture}.{published.name}", f"torchvision {torchvision.__version__}, {file}", terms)


def _input_spec(architecture: str, published: WeightsEnum) -> InputSpec:
    transforms = published.transforms()
    size = transforms.crop_size[0]
    if architecture in AUXILIARY:
        # These two were trained on pixels of -1 to 1. torchvision converts inside the pretrained network; here the
        # preprocessing does it, with weights or without.
        return InputSpec(size, HALVES, HALVES)
    return InputSpec(size, tuple(transforms.mean), tuple(transforms.std))


@register(group="model", name="resnet18")
class ResNet18(Torchvision):
    """ResNet-18: 11.2 million parameters, the default for the built-in sample."""

    architecture = "resnet18"


@register(group="model", name="resnet34")
class ResNet34(Torchvision):
    """ResNet-34: 21.3 million parameters."""

    architecture = "resnet34"


@register(group="model", name="resnet50")
class ResNet50(Torchvision):
    """ResNet-50: 23.5 million parameters."""

    architecture = "resnet50"


@register(group="model", name="resnet101")
class ResNet101(Torchvision):
    """ResNet-101: 42.5 million parameters."""

    architecture = "resnet101"


@register(group="model", name="vgg16")
class VGG16(Torchvision):
    """VGG-16 (Simonyan and Zisserman 2015): 134 million parameters, simple and heavy."""

    architecture = "vgg16"


@register(group="model", name="densenet121")
class DenseNet121(Torchvision):
    """DenseNet-121 (Huang et al. 2017): 7.0 million parameters, features used again by every later layer."""

    architecture = "densenet121"


@register(group="model", name="mobilenet_v2")
class MobileNetV2(Torchvision):
    """MobileNetV2 (Sandler et al. 2018): 2.2 million parameters, for phones."""

    architecture = "mobilenet_v2"


@register(group="model", name="efficientnet_b0")
class EfficientNetB0(Torchvision):
    """EfficientNet-B0 (Tan and Le 2019): 4.0 million parameters, accurate for its cost."""

    architecture = "efficientnet_b0"


@register(group="model", name="efficientnet_b1")
class EfficientNetB1(Torchvision):
    """EfficientNet-B1 (Tan and Le 2019): 6.5 million parameters, at 240 pixels."""

    architecture = "efficientnet_b1"
