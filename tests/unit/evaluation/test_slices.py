from __future__ import annotations

import numpy as np

from classifier_training.evaluation.slices import field_bins, size_bins, slice_metrics, worst_slice


def test_the_worst_slice_is_the_one_that_is_surely_bad() -> None:
    values = ["tiny"] * 2 + ["bad"] * 100 + ["good"] * 100
    targets = np.array([0, 1] * 101)
    predicted = targets.copy()
    predicted[:2] = 1 - targets[:2]  # both wrong, but two images prove little
    predicted[2:62] = 1 - targets[2:62]
    found = slice_metrics("day", values, targets, predicted, num_classes=3)
    assert [(item.value, item.num_images, item.accuracy.value) for item in found] == [
        ("tiny", 2, 0.0), ("bad", 100, 0.4), ("good", 100, 1.0),
    ]  # fmt: skip
    worst = worst_slice(found)
    assert worst is not None
    assert worst.value == "bad"
    assert worst.balanced_accuracy.low < 0.4 < worst.balanced_accuracy.high
    assert worst_slice(found[:1]) is None


def test_sizes_are_binned_by_the_shorter_side() -> None:
    sizes = [(10, 900), (32, 40), (63, 64), (64, 64), (1920, 1080), (9000, 8000)]
    assert size_bins(sizes) == ["under 32 px", "32-63 px", "32-63 px", "64-127 px", "1024-2047 px", "4096 px and more"]


def test_a_field_of_many_numbers_is_binned_and_any_other_is_taken_as_it_is() -> None:
    assert field_bins(["a", None, 3]) == ["a", "(none)", "3"]
    assert field_bins([True, False]) == ["True", "False"]
    found = field_bins([*range(100), None])
    assert [found[0], found[99], found[100]] == ["0 to 24", "75 to 99", "(none)"]
    assert len(set(found)) == 5
    found = field_bins([float("nan"), *range(20240101, 20240131)])
    assert [found[0], found[1], found[-1]] == ["(none)", "20240101 to 20240108", "20240124 to 20240130"]
    # Most are equal: they are a slice of their own.
    assert set(field_bins([0] * 80 + [*range(1, 21)])) == {"0", "1 to 20"}
