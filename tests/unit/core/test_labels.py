from __future__ import annotations

import pytest

from classifier_training.core.labels import index_labels, label_indices, read_mapping, sort_labels, write_mapping

NAMES = ("", "10", "7", "Cat", "cat", "ü")


def test_labels_are_sorted_as_strings_and_counted_once() -> None:
    assert sort_labels(["cat", "ü", "7", "", "10", "Cat", "7"]) == NAMES
    assert list(index_labels(NAMES).items()) == [(name, index) for index, name in enumerate(NAMES)]


def test_labels_become_indices_and_come_back_from_a_mapping() -> None:
    assert label_indices(["ü", "", "7", "ü"], NAMES).tolist() == [5, 0, 2, 5]
    assert label_indices([], NAMES).dtype == "int64"
    with pytest.raises(KeyError):
        label_indices(["dog"], NAMES)
    mapping = write_mapping(NAMES)
    assert mapping["idx_to_class"]["2"] == "7"
    assert read_mapping(mapping) == NAMES


@pytest.mark.parametrize("indices", [{"a": 0, "b": 2}, {"a": 1, "b": 2}, {"a": 0, "b": 0}])
def test_a_mapping_with_gaps_is_refused(indices: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="without a gap"):
        read_mapping({"class_to_idx": indices})
