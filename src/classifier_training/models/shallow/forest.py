"""A random forest as a network: all trees go down one level at a time, by look-ups in tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from classifier_training.core.errors import UserError
from classifier_training.models.shallow.network import FittedClassifier

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.base import ClassifierMixin

    Array: TypeAlias = NDArray[Any]

MAX_BYTES = 2**30
"""ONNX files end at 2 GiB."""

PRIOR = 0.5
"""Votes that every class has beforehand, so that no class is impossible."""


class Forest(FittedClassifier):
    """scikit-learn's `RandomForestClassifier`.

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

    def answer(self, features: Tensor) -> Tensor:
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

    def learnt(self, estimator: ClassifierMixin) -> dict[str, Tensor]:
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
