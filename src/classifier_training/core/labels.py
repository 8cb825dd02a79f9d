"""The one numbering of labels: class names, sorted as strings, by index.

An index means something only beside the class names that it was counted in, which travel with every model; labels of
other data are matched by name.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the class names in the order of their indices: each label once; an empty one is legal and comes first."""
    return tuple(sorted(set(labels)))


def skeleton(label: str) -> str:
    """Return what is left of a label without case, spaces, hyphens and the way that accents are stored in."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(letter for letter in folded if letter not in " _-\t\u00a0")


def index_labels(class_names: Iterable[str]) -> dict[str, int]:
    """Return the index of each class name."""
    return {name: index for index, name in enumerate(class_names)}


def label_indices(labels: Iterable[str], class_names: Iterable[str]) -> NDArray[np.int64]:
    """Return the class index of each label, int64 [N].

    Raises:
        KeyError: for a label that is no class name.
    """
    indices = index_labels(class_names)
    return np.array([indices[label] for label in labels], dtype=np.int64)


def write_mapping(class_names: Sequence[str]) -> dict[str, Any]:
    """Return class names as labels_mapping.json has them."""
    indices = index_labels(class_names)
    return {
        "num_classes": len(class_names),
        "class_to_idx": indices,
        "idx_to_class": {str(index): name for name, index in indices.items()},
    }


def read_mapping(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the class names that labels_mapping.json has.

    Raises:
        ValueError: when the indices do not count from 0 without a gap.
        KeyError: when there are no indices; TypeError or AttributeError when they are none.
    """
    indices = found["class_to_idx"]
    names = tuple(sorted(indices, key=indices.__getitem__))
    if [indices[name] for name in names] != list(range(len(names))):
        raise ValueError("class_to_idx does not count from 0 without a gap")
    return names
