"""Shallow models as networks: pixels to handcrafted features, and a fitted forest or support vector machine on them."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from classifier_training.core.errors import UserError
from classifier_training.models.shallow_features import exact_sqrt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from sklearn.base import ClassifierMixin

    from classifier_training.core.types import InputSpec

    Array: TypeAlias = NDArray[Any]


class FittedClassifier(nn.Module):
    """A classifier whose state is what a scikit-learn estimator has learned: float32 [B, D] -> logits [B, K].

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
        """Return the logits of `classify` times the inverse of a temperature (Guo et al. 2017)."""
        if not self._is_fitted:
            return features.new_zeros(features.shape[0], self.num_classes)
        return self.classify(features) * self.sharpness

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Return logits [B, K] whose largest is the estimator's prediction."""

    @abstractmethod
    def learned_state(self, estimator: ClassifierMixin) -> Mapping[str, Tensor]:
        """Return a fitted estimator's state as tensors, by the names in `state_names`."""

    def adopt(self, estimator: ClassifierMixin) -> None:
        """Take over what an estimator has learned.

        Raises:
            UserError: when it is too large to be written.
        """
        for name, value in self.learned_state(estimator).items():
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
    """Normalized images float32 [B, 3, H, W] -> logits float32 [B, K].

    Args:
        features: families of features.
        classifier: of what they say together.
        input_spec: mean and std that the images were normalized with, taken back here.
    """

    def __init__(self, features: Sequence[nn.Module], classifier: FittedClassifier, input_spec: InputSpec) -> None:
        super().__init__()
        self.features = nn.ModuleList(features)
        self.classifier = classifier
        # The last channel may be red: all three are scaled alike.
        self._scale = 255 * input_spec.std[0]
        self._shift = 255 * input_spec.mean[0] + 0.5

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of a batch."""
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


MAX_BYTES = 2**30
"""ONNX files end at 2 GiB."""

PRIOR = 0.5
"""Votes that every class has beforehand, so that no class is impossible."""


class Forest(FittedClassifier):
    """scikit-learn's `RandomForestClassifier`.

    All trees go down one level at a time, by look-ups in tables.

    Logits are the logarithm of the trees' mean shares, half a vote added to each class (Jeffreys' prior).
    """

    state_names = ("roots", "columns", "thresholds", "next_nodes", "leaves", "shares", "levels")
    roots: Tensor
    columns: Tensor
    thresholds: Tensor
    next_nodes: Tensor
    leaves: Tensor
    shares: Tensor
    levels: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """Return logits; see the base class."""
        node = self.roots.long().expand(features.shape[0], -1)
        # Levels are a shape, not a number: what is exported cannot depend on a value.
        for _ in range(self.levels.shape[0]):
            value = features.gather(1, self.columns[node].long())
            # A leaf is its own child, and nothing is above its threshold.
            node = self.next_nodes[node].long() + (value > self.thresholds[node]).long()
        shares = self.shares[self.leaves[node].long()].mean(dim=1)
        num_trees = self.roots.shape[0]
        return torch.log(num_trees * shares + PRIOR)

    def learned_state(self, estimator: ClassifierMixin) -> dict[str, Tensor]:
        """Return the state of a fitted forest.

        Raises:
            UserError: when it is too large for an ONNX file.
        """
        forest: Any = estimator
        trees = [member.tree_ for member in forest.estimators_]
        num_leaves = sum(int((tree.children_left < 0).sum()) for tree in trees)
        num_bytes = 4 * num_leaves * self.num_classes + 16 * sum(tree.node_count for tree in trees)
        if num_bytes > MAX_BYTES:
            raise UserError(
                f"the forest takes {num_bytes / 2**30:.1f} GiB: {len(trees)} trees with {num_leaves:,} leaves",
                f"at most {MAX_BYTES / 2**30:g} GiB, so that it can be written as ONNX",
                "model.num_trees=50, model.max_depth=12 or model.min_samples_leaf=5",
            )
        parts: dict[str, list[Array]] = {
            name: [] for name in ("roots", "columns", "thresholds", "next_nodes", "leaves", "shares")
        }
        num_nodes = num_leaves = 0
        for tree in trees:
            order, children = _side_by_side(tree.children_left, tree.children_right)
            is_leaf = tree.children_left[order] < 0
            parts["roots"].append(np.array([num_nodes]))
            parts["columns"].append(np.where(is_leaf, 0, tree.feature[order]))
            parts["thresholds"].append(np.where(is_leaf, np.inf, _rounded_down(tree.threshold[order])))
            parts["next_nodes"].append(children + num_nodes)
            parts["leaves"].append(np.where(is_leaf, np.cumsum(is_leaf) - 1 + num_leaves, 0))
            values = tree.value[order][is_leaf, 0]
            parts["shares"].append(values / values.sum(axis=1, keepdims=True))
            num_nodes += len(order)
            num_leaves += int(is_leaf.sum())
        whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        found = {
            name: torch.from_numpy(value.astype(np.float32 if name in ("thresholds", "shares") else np.int32))
            for name, value in whole.items()
        }
        return {**found, "levels": torch.zeros(max(tree.max_depth for tree in trees))}


def _side_by_side(left: Array, right: Array) -> tuple[Array, Array]:
    """Number a tree's nodes level by level, so that a right child follows its left one.

    Returns:
        The old number of each new node, and each new node's left child, or itself for a leaf.
    """
    order = [0]
    for node in order:
        if left[node] >= 0:
            order += [int(left[node]), int(right[node])]
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.arange(len(order))
    old = np.array(order)
    return old, np.where(left[old] < 0, np.arange(len(old)), numbers[left[old]])


def _rounded_down(thresholds: Array) -> Array:
    """Return the largest float32 that is not above each float64, so that no float32 changes sides."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


class SupportVectors(FittedClassifier):
    """scikit-learn's `SVC` with a radial kernel.

    Each pair of classes votes by the side of its margin; the sum of a class's margins, squeezed into a third of a vote,
    decides between equal numbers of votes, as in scikit-learn's decision_function. That is the logit.
    """

    state_names = ("vectors", "gamma", "weights", "intercepts")
    vectors: Tensor
    gamma: Tensor
    weights: Tensor
    intercepts: Tensor
    _sides: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        # +1 for the first class of a pair, -1 for the second: [pairs, K].
        first, second = np.triu_indices(num_classes, k=1)
        sides = np.eye(num_classes, dtype=np.float32)[first] - np.eye(num_classes, dtype=np.float32)[second]
        self.register_buffer("_sides", torch.from_numpy(sides), persistent=False)

    def classify(self, features: Tensor) -> Tensor:
        """Return logits; see the base class."""
        lengths = (features * features).sum(dim=1, keepdim=True) + (self.vectors * self.vectors).sum(dim=1)
        distances = (lengths - 2 * features @ self.vectors.T).clamp(min=0)
        margins = torch.exp(-self.gamma * distances) @ self.weights + self.intercepts
        if self.num_classes == 2:
            return margins @ self._sides
        votes = torch.where(margins >= 0, 0.5, -0.5) @ self._sides
        sums = margins @ self._sides
        return votes + sums / (3 * (sums.abs() + 1))

    def learned_state(self, estimator: ClassifierMixin) -> dict[str, Tensor]:
        """Return the state of a fitted SVC."""
        machine: Any = estimator
        weights, intercepts = _by_pair(machine), machine.intercept_
        if self.num_classes == 2:
            # scikit-learn turns the margin of two classes over, towards the second.
            weights, intercepts = -weights, -intercepts
        found = {
            "vectors": machine.support_vectors_,
            "gamma": [machine._gamma],  # noqa: SLF001 - the number that "scale" came to
            "weights": weights,
            "intercepts": intercepts,
        }
        return {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in found.items()}


class LinearVectors(FittedClassifier):
    """scikit-learn's `LinearSVC`, one class against the rest; margins are the logits."""

    state_names = ("weights", "intercepts")
    weights: Tensor
    intercepts: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """Return logits; see the base class."""
        return features @ self.weights.T + self.intercepts

    def learned_state(self, estimator: ClassifierMixin) -> dict[str, Tensor]:
        """Return the state of a fitted LinearSVC."""
        machine: Any = estimator
        weights, intercepts = machine.coef_, machine.intercept_
        if self.num_classes == 2:
            weights, intercepts = np.vstack([-weights, weights]), np.concatenate([-intercepts, intercepts])
        found = {"weights": weights, "intercepts": intercepts}
        return {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in found.items()}


def _by_pair(machine: Any) -> NDArray[np.float64]:
    """Lay libsvm's coefficients out by pair of classes: [vectors, pairs].

    It keeps of each vector one coefficient for each other class, without a place for its own.
    """
    coefficients = np.asarray(machine.dual_coef_)
    ends = np.cumsum(machine.n_support_)
    owned = [slice(end - count, end) for end, count in zip(ends, machine.n_support_, strict=True)]
    first, second = np.triu_indices(len(owned), k=1)
    found = np.zeros((coefficients.shape[1], len(first)))
    for pair, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        found[owned[one], pair] = coefficients[other - 1, owned[one]]
        found[owned[other], pair] = coefficients[one, owned[other]]
    return found
