"""The network of a shallow model: pixels to features, features to logits, nothing learnt by gradients."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sklearn.pipeline import Pipeline

    from classifier_training.core.types import InputSpec


class FittedClassifier(nn.Module):
    """A classifier whose state is what a scikit-learn estimator has learnt: float32 [B, D] -> logits [B, K].

    The state is empty until `adopt` or `load_state_dict` gives it; its shapes are those of what was fitted. Before
    that, all logits are 0.
    """

    state_names: ClassVar[tuple[str, ...]]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._is_fitted = False
        for name in self.state_names:
            self._set(name, torch.zeros(0))
        self._set("sharpness", torch.ones(1))
        self.register_load_state_dict_pre_hook(_take_shapes)

    def forward(self, features: Tensor) -> Tensor:
        """Answer a batch: the logits of `answer`, times the inverse of a temperature (Guo et al. 2017)."""
        if not self._is_fitted:
            return features.new_zeros(features.shape[0], self.num_classes)
        return self.answer(features) * self.sharpness

    @abstractmethod
    def answer(self, features: Tensor) -> Tensor:
        """Return logits [B, K] whose largest is the estimator's prediction."""

    @abstractmethod
    def learnt(self, estimator: Pipeline) -> Mapping[str, Tensor]:
        """Return a fitted estimator's state as tensors, by the names in `state_names`."""

    def adopt(self, estimator: Pipeline) -> None:
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


class ShallowNetwork(nn.Module):
    """Normalised pictures float32 [B, 3, H, W] -> logits float32 [B, K].

    Args:
        features: whole numbers of 0..255, float32 [B, 3, H, W] -> float32 [B, D], each.
        classifier: of what they say together.
        input_spec: mean and std that the pictures were normalised with, taken back here.
    """

    def __init__(self, features: list[nn.Module], classifier: FittedClassifier, input_spec: InputSpec) -> None:
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
        """Return the features of pictures of 0..255: float32 [B, 3, H, W] -> [B, D]."""
        return torch.cat([part(pixels) for part in self.features], dim=1)


def _take_shapes(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: object) -> None:
    assert isinstance(module, FittedClassifier)
    module.take_shapes(state, prefix)
