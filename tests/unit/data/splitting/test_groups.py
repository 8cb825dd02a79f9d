from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier_training.core.errors import UserError
from classifier_training.data.index import SampleIndex
from classifier_training.data.samples import Sample, Samples
from classifier_training.data.splitting.allocate import allocate, random_folds, random_split
from classifier_training.data.splitting.groups import assign_groups, group_duplicates, report_straddling
from classifier_training.data.splitting.splits import SplitRequest, complete_splits, in_fold, take_folds

FRACTIONS = {"val": 0.15, "test": 0.15}
PATHS = ("cat/s1/a.png", "cat/s2/a.png", "dog/s1/b.png")


def index_of(*samples: Sample) -> SampleIndex:
    return SampleIndex(Path("/d"), samples)


def groups(rule: int | str, *samples: Sample) -> list[str]:
    found = assign_groups(index_of(*(samples or [Sample(path, "x") for path in PATHS])), rule)
    return [sample.group for sample in found.samples]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("parent", ["s1", "s2", "s1"]),
        ("parent2", ["cat", "cat", "dog"]),
        (1, ["cat", "cat", "dog"]),
        (2, ["s1", "s2", "s1"]),
        (r"re:/(s\d)/", ["s1", "s2", "s1"]),
        (r"re:s(?P<group>\d)/(.)", ["1", "2", "1"]),
        (r"re:s\d/.", ["s1/a", "s2/a", "s1/b"]),
    ],
)
def test_a_group_is_found_in_the_path(rule: int | str, expected: list[str]) -> None:
    assert groups(rule) == expected


def test_a_group_is_found_in_a_column_or_in_metadata(caplog: pytest.LogCaptureFixture) -> None:
    samples = [
        Sample("a", "x", "", "g1", {"player": 4, "camera": {"id": "left"}}),
        Sample("b", "x", "", "g2", {"player": None}),
    ]
    assert groups("group", *samples) == ["g1", "g2"]
    assert groups("player", *samples) == groups("metadata.player", *samples) == ["4", ""]
    assert groups("metadata.camera.id", *samples) == ["left", ""]
    assert "finds no group for 1 image, so each is a group of its own: b" in caplog.text


@pytest.mark.parametrize(
    ("rule", "words"),
    [("parent3", "finds no group"), (5, "finds no group"), ("re:(", "no regular expression"), ("re:zzz", "finds no"),
     ("session", "no such column or metadata field")],
)  # fmt: skip
def test_a_rule_that_finds_nothing_is_an_error(rule: int | str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        groups(rule)


def random_samples(seed: int, *, num_groups: int = 60, num_classes: int = 5, size: int = 12) -> list[Sample]:
    rng = np.random.default_rng(seed)
    weights = 0.5 ** np.arange(num_classes)
    samples = []
    for group in range(num_groups):
        # A session is mostly of one class, as sessions are.
        own = rng.choice(num_classes, p=weights / weights.sum())
        for number in range(int(rng.integers(1, size))):
            label = own if rng.random() < 0.8 else rng.integers(num_classes)
            samples.append(Sample(f"{group}/{number}", str(label), "", f"g{group}"))
    return samples


@pytest.mark.parametrize("seed", range(8))
def test_a_group_is_on_one_side_and_every_class_on_all(seed: int) -> None:
    samples = random_samples(seed)
    splits = random_split(samples, FRACTIONS, seed=seed)
    assert splits == random_split(samples, FRACTIONS, seed=seed)
    sides, labels, own = defaultdict(set), defaultdict(set), defaultdict(set)
    for sample, split in zip(samples, splits, strict=True):
        sides[sample.group].add(split)
        labels[split].add(sample.label)
        own[sample.label].add(sample.group)
    assert all(len(found) == 1 for found in sides.values())
    assert labels["train"] == set(own)
    for label, found in own.items():
        if len(found) >= 6:
            assert all(label in labels[split] for split in FRACTIONS)
    share = splits.count("train") / len(splits)
    assert 0.6 < share < 0.8


def test_single_pictures_beside_groups_fill_up_what_is_lacking() -> None:
    samples = [Sample(f"{number}", "ab"[number % 2], "", "big" if number < 40 else "") for number in range(200)]
    splits = random_split(samples, FRACTIONS, seed=0)
    assert {name: splits.count(name) for name in ("train", "val", "test")} == {"train": 140, "val": 30, "test": 30}
    assert len(set(splits[:40])) == 1


def test_a_class_in_one_group_is_trained_on_and_named(caplog: pytest.LogCaptureFixture) -> None:
    samples = [
        Sample(f"{group}/{n}", "rare" if group == 0 else "often", "", f"g{group}")
        for group in range(9)
        for n in range(4)
    ]
    splits = random_split(samples, FRACTIONS, seed=1)
    assert set(splits[:4]) == {"train"}
    assert "'rare': no image for val, test, for its images are all in one group" in caplog.text


def test_one_group_of_all_images_is_an_error() -> None:
    with pytest.raises(UserError, match="all 6 images are in one group, 'g'"):
        random_split([Sample(f"{n}", "ab"[n % 2], "", "g") for n in range(6)], FRACTIONS, seed=0)


@pytest.mark.parametrize("grouped", [True, False])
def test_folds_part_the_data_and_all_know_the_same_classes(grouped: bool) -> None:
    samples = random_samples(3)
    if not grouped:
        samples = [Sample(sample.path, sample.label) for sample in samples]
    index = index_of(*samples)
    validated: list[set[str]] = []
    tests, classes = [], []
    for fold in range(5):
        found = complete_splits(index, SplitRequest(fold=fold, num_folds=5), seed=0).samples
        validated.append({sample.path for sample in found if sample.split == "val"})
        tests.append({sample.path for sample in found if sample.split == "test"})
        classes.append({sample.label for sample in found if sample.split == "train"})
        if grouped:
            sides = {(sample.group, sample.split) for sample in found}
            assert len(sides) == len({group for group, _ in sides})
    assert all(one == tests[0] for one in tests)
    assert all(one == classes[0] for one in classes)
    assert sum(map(len, validated)) == len(set().union(*validated)) == len(samples) - len(tests[0])
    assert max(map(len, validated)) < 2 * min(map(len, validated))


def test_a_class_of_one_picture_is_trained_on_in_every_fold(caplog: pytest.LogCaptureFixture) -> None:
    folds = random_folds([Sample("one", "rare"), *(Sample(f"{n}", "often") for n in range(10))], 5, seed=0)
    assert folds[0] == -1
    assert sorted(folds[1:]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert "every fold trains on and none validates on: 'rare'" in caplog.text
    with pytest.raises(UserError, match="num_folds=5 with 3 images to divide"):
        random_folds([Sample(f"{n}", "often") for n in range(3)], 5, seed=0)


@pytest.mark.parametrize(
    ("wish", "words"),
    [({"fold": 1}, "without data.num_folds"), ({"num_folds": 3}, "without data.fold"),
     ({"fold": 3, "num_folds": 3}, "from 0 to 2"), ({"fold": 0, "num_folds": 3, "val_fraction": 0.2}, "no effect")],
)  # fmt: skip
def test_half_a_wish_for_folds_is_an_error(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        SplitRequest(**wish)
    assert words in str(caught.value)


def test_a_fold_of_data_with_a_validation_split_is_an_error() -> None:
    index = index_of(Sample("a", "x", "train"), Sample("b", "x", "val"))
    with pytest.raises(UserError, match="fold=0 has no effect"):
        complete_splits(index, SplitRequest(fold=0, num_folds=2), seed=0)


def test_twins_join_the_groups_that_they_are_in() -> None:
    index = index_of(
        *(Sample(path, "x", "", group) for path, group in zip("abcdef", ("s1", "s1", "s2", "", "", ""), strict=True))
    )
    joined = group_duplicates(index, {"b": "t1", "c": "t1", "d": "t2", "e": "t2"})
    assert [sample.group for sample in joined.samples] == ["s1", "s1", "s1", "d", "d", ""]


def test_a_group_on_two_sides_is_told(caplog: pytest.LogCaptureFixture) -> None:
    report_straddling(
        index_of(Sample("a", "x", "train", "s1"), Sample("b", "x", "test", "s1"), Sample("c", "x", "val", "s2"))
    )
    assert "1 groups are in more than one split, so the scores will be too good: s1" in caplog.text


def test_dealing_many_single_pictures_is_quick_and_exact() -> None:
    classes = np.arange(100_000) % 10
    parts = allocate(classes, np.arange(100_000), np.array([0.7, 0.15, 0.15]), seed=0)
    for label in range(10):
        assert np.bincount(parts[classes == label]).tolist() == [7000, 1500, 1500]


def test_all_folds_at_once_are_those_of_one_at_a_time() -> None:
    samples = [Sample(f"{n}", "ab"[n % 2], group=f"g{n // 3}") for n in range(60)]
    index = SampleIndex(Path("/d"), tuple(samples))
    divided = complete_splits(index, SplitRequest(num_folds=4, all_folds=True), seed=3)
    first, folds = take_folds(divided, divided)
    for number in range(4):
        alone = complete_splits(index, SplitRequest(fold=number, num_folds=4), seed=3)
        assert in_fold(first, folds, number).samples == alone.samples
    assert {sample.split for sample, fold in zip(first.samples, folds, strict=True) if fold < 0} == {"test"}


def test_folds_take_the_place_of_a_validation_split(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    splits = ["train"] * 8 + ["val"] * 4 + ["test"] * 2
    index = index_of(*(Sample(f"{n}", "ab"[n % 2], split) for n, split in enumerate(splits)))
    divided = complete_splits(index, SplitRequest(num_folds=3, all_folds=True), seed=0)
    _, folds = take_folds(divided, divided)
    assert sorted(folds) == [-1, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert "The 4 images of the validation split are trained on" in caplog.text


def test_corrections_keep_the_classes_of_all_folds_alike() -> None:
    index = index_of(*(Sample(f"{n}", "ab"[n % 2]) for n in range(12)))
    divided = complete_splits(index, SplitRequest(num_folds=3, all_folds=True, test_fraction=0), seed=0)
    changed = [replace(divided.samples[0], label="new"), replace(divided.samples[1], split="val"), *divided.samples[2:]]
    first, folds = take_folds(replace(divided, samples=Samples.of(changed)), divided)
    # The class of one image is trained on in every fold, and what is moved to validation is in its fold.
    assert folds[0] == -1
    assert f"fold {folds[1]}" == divided.samples[1].split
    assert first.samples[0].split == "train"
