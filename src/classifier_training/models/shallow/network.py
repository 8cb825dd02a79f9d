"""The network of a shallow model: pixels to features, features to logits, nothing learnt by gradients."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from classifier_training.models.shallow.hog import exact_sqrt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sklearn.base import ClassifierMixin

    from classifier_training.core.types import InputSpec


class FittedClassifier(nn.Module):
    """A classifier whose state is what a scikit-learn estimator has learnt: float32 [B, D] -> logits [B, K].

    The state is empty until `adopt` or `load_state_dict` gives it; its shapes are those of what was fitted. Before
    that, all logits are 0.
    """

    state_names: ClassVar[tuple[str, ...]]
    sharpness: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._is_fitted = False
        for name in self.state_names:
            self._set(name, torch.zeros(0))
        self._set("sharpness", torch.ones(1))
        self.register_load_state_dict_pre_hook(_take_shapes)  # type: ignore[no-untyped-call]

    def forward(self, features: Tensor) -> Tensor:
        """Answer a batch: the logits of `answer`, times the inverse of a temperature (Guo et al. 2017)."""
        if not self._is_fitted:
            return features.new_zeros(features.shape[0], self.num_classes)
        return self.answer(features) * self.sharpness

    @abstractmethod
    def answer(self, features: Tensor) -> Tensor:
        """Return logits [B, K] whose largest is the estimator's prediction."""

    @abstractmethod
    def learnt(self, estimator: ClassifierMixin) -> Mapping[str, Tensor]:
        """Return a fitted estimator's state as tensors, by the names in `state_names`."""

    def adopt(self, estimator: ClassifierMixin) -> None:
        """Take over what an estimator has learnt.

        Raises:
            UserError: when it is too large to be written.
        """
        for name, value in self.learnt(estimator).items():
            self._set(name, value)
        self._is_fitted = True

    def sharpen(self, factor: float) -> None:
        """Multiply all logits from now on."""
        self._set("sharpness", self.sharpness.detach() * factor)

    def _set(self, name: str, value: Tensor) -> None:
        setattr(self, name, nn.Parameter(value.contiguous(), requires_grad=False))

    def take_shapes(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Make room for a state that is about to be loaded."""
        for name in self.state_names:
            if f"{prefix}{name}" in state:
                self._set(name, torch.empty_like(state[f"{prefix}{name}"]))
        self._is_fitted = True


class Features(Protocol):
    """One family of features: whole numbers of 0..255, float32 [B, 3, H, W] -> float32 [B, D].

    Attributes:
        unit: as many values make a vector of length 1 at the most, once shares are square-rooted.
        are_shares: whether they are shares of a whole.
    """

    unit: int
    are_shares: bool

    def __call__(self, pixels: Tensor) -> Tensor:
        """Describe images."""


class ShallowNetwork(nn.Module):
    """Normalised images float32 [B, 3, H, W] -> logits float32 [B, K].

    Args:
        features: families of features.
        classifier: of what they say together.
        input_spec: mean and std that the images were normalised with, taken back here.
    """

    def __init__(self, features: Sequence[nn.Module], classifier: FittedClassifier, input_spec: InputSpec) -> None:
        super().__init__()
        self.features = nn.ModuleList(features)
        self.classifier = classifier
        # The last channel may be red: all three are scaled alike.
        self._scale = 255 * input_spec.std[0]
        self._shift = 255 * input_spec.mean[0] + 0.5

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer a batch."""
        # Features count whole grey levels, which float32 has only nearly after mean and std.
        logits: Tensor = self.classifier(self.describe(torch.floor(inputs * self._scale + self._shift).clamp(0, 255)))
        return logits

    def describe(self, pixels: Tensor) -> Tensor:
        """Return the features of images of 0..255: float32 [B, 3, H, W] -> [B, D].

        Each family is a vector of length 1 at the most, however many values it has. Shares become their square roots,
        between which a distance is Hellinger's (Arandjelovic and Zisserman 2012, "Three things everyone should know to
        improve object retrieval").
        """
        return torch.cat([_balanced(cast("Features", part), pixels) for part in self.features], dim=1)


def _balanced(family: Features, pixels: Tensor) -> Tensor:
    values = family(pixels)
    rooted = exact_sqrt(values) if family.are_shares else values
    return rooted * math.sqrt(family.unit / values.shape[1])


def _take_shapes(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(module, FittedClassifier)
    module.take_shapes(state, prefix)
