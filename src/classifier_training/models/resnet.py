"""torchvision's residual networks (He et al. 2016, arXiv:1512.03385)."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from classifier_training.core.register import register
from classifier_training.core.settings import PathText  # noqa: TC001 - the register reads it at run time
from classifier_training.core.types import BuiltModel, InputSpec
from classifier_training.models.weights import load_weights_file, refuse_two_starts, unfetched

log = logging.getLogger(__name__)

IMAGENET = InputSpec(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """A residual network whose last layer fits the data's classes.

    Args:
        pretrained: start from ImageNet weights, fetched the first time.
        weights: start from this file instead (.safetensors, or a PyTorch state_dict).
        dropout: share of features dropped before the last layer.
    """

    architecture: ClassVar[str]

    pretrained: bool = False
    weights: PathText | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __call__(self, num_classes: int) -> BuiltModel:
        """Build the network.

        Raises:
            UserError: when weights are wanted and cannot be had.
        """
        import torch
        from torch import nn
        from torchvision.models import get_model, get_model_weights

        refuse_two_starts(pretrained=self.pretrained, weights=self.weights)
        network = get_model(self.architecture, weights=None)
        if self.pretrained:
            published = get_model_weights(self.architecture)["IMAGENET1K_V1"]
            file = published.url.rpartition("/")[2]
            if not Path(torch.hub.get_dir(), "checkpoints", file).exists():
                log.info("fetching the pretrained weights of %s: %s", self.architecture, published.url)
            try:
                # torch says the same on the standard output.
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    state = published.get_state_dict(progress=False, check_hash=True)
                network.load_state_dict(state)
            except (OSError, RuntimeError) as error:
                cache = "$TORCH_HOME/hub/checkpoints (~/.cache/torch unless set)"
                raise unfetched(self.architecture, error, cached_at=f"{cache} as {file}") from error
        network.fc = nn.Linear(network.fc.in_features, num_classes)
        if self.weights is not None:
            load_weights_file(network, self.weights, head=("fc.",))
        if self.dropout:
            network.fc = nn.Sequential(nn.Dropout(self.dropout), network.fc)
        return BuiltModel(network, IMAGENET, self.architecture, self.pretrained or self.weights is not None)


@register(group="model", name="resnet18")
class ResNet18(ResNet):
    """ResNet-18: 11.2 million parameters, the default."""

    architecture = "resnet18"


@register(group="model", name="resnet34")
class ResNet34(ResNet):
    """ResNet-34: 21.3 million parameters."""

    architecture = "resnet34"


@register(group="model", name="resnet50")
class ResNet50(ResNet):
    """ResNet-50: 23.5 million parameters."""

    architecture = "resnet50"
