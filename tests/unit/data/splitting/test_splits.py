from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from classifier_training.core.errors import UserError
from classifier_training.data.index import SampleIndex
from classifier_training.data.samples import Sample
from classifier_training.data.splitting.allocate import stratified_split
from classifier_training.data.splitting.manifest import read_manifest, write_manifest
from classifier_training.data.splitting.splits import SplitRequest, complete_splits, report_overlap, restore_splits

FRACTIONS = {"val": 0.15, "test": 0.15}


def index_of(*rows: tuple[str, str]) -> SampleIndex:
    return SampleIndex(Path("/d"), tuple(Sample(f"{n}", label, split) for n, (label, split) in enumerate(rows)))


def test_every_class_is_divided_in_proportion() -> None:
    labels = ["a"] * 100 + ["b"] * 20
    splits = stratified_split(labels, FRACTIONS, seed=0)
    assert Counter(splits[:100]) == {"train": 70, "val": 15, "test": 15}
    assert Counter(splits[100:]) == {"train": 14, "val": 3, "test": 3}


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, {"train": 1}), (2, {"train": 1, "val": 1}), (3, {"train": 1, "val": 1, "test": 1})],
)
def test_training_always_keeps_one(size: int, expected: dict[str, int]) -> None:
    assert Counter(stratified_split(["a"] * size, FRACTIONS, seed=0)) == expected


def test_the_seed_decides_and_other_classes_do_not() -> None:
    alone = stratified_split(["a"] * 50, FRACTIONS, seed=3)
    assert alone == stratified_split(["a"] * 50, FRACTIONS, seed=3)
    assert alone != stratified_split(["a"] * 50, FRACTIONS, seed=4)
    assert alone == stratified_split(["a"] * 50 + ["b"] * 9, FRACTIONS, seed=3)[:50]


def test_unsplit_data_gets_three_splits() -> None:
    index = complete_splits(index_of(*[("a", "")] * 20), SplitRequest(val_fraction=0.1, test_fraction=0.25), seed=0)
    assert Counter(sample.split for sample in index.samples) == {"train": 13, "val": 2, "test": 5}


def test_a_missing_validation_split_is_cut_from_training_and_a_missing_test_is_not() -> None:
    rows = [("a", "train")] * 20 + [("a", "test")] * 4
    index = complete_splits(index_of(*rows), SplitRequest(val_fraction=None, test_fraction=None), seed=0)
    assert Counter(sample.split for sample in index.samples) == {"train": 17, "val": 3, "test": 4}
    index = complete_splits(
        index_of(*[("a", "train")] * 20), SplitRequest(val_fraction=None, test_fraction=None), seed=0
    )
    assert "test" not in index.present_splits()


@pytest.mark.parametrize(
    ("val", "test", "words"),
    [(0.2, None, "val_fraction=0.2 has no effect"), (None, 0.2, "test_fraction=0.2 has no effect")],
)
def test_a_fraction_without_effect_is_an_error(val: float | None, test: float | None, words: str) -> None:
    rows = [("a", "train"), ("a", "val"), ("a", "test")]
    with pytest.raises(UserError, match=words):
        complete_splits(index_of(*rows), SplitRequest(val_fraction=val, test_fraction=test), seed=0)


def test_all_rows_of_a_picture_are_on_one_side() -> None:
    rows = tuple(Sample(f"{number % 30}", "ab"[number // 30]) for number in range(60))
    index = complete_splits(SampleIndex(Path("/d"), rows), SplitRequest(val_fraction=None, test_fraction=None), seed=0)
    sides = [{sample.split for sample in index.samples if sample.path == path} for path in map(str, range(30))]
    assert all(len(side) == 1 for side in sides)
    assert Counter(side.pop() for side in sides) == {"train": 22, "val": 4, "test": 4}


def rest_of(rows: list[tuple[str, str]], wish: SplitRequest | None = None) -> Counter[tuple[str, str]]:
    """Count the classes of each split that are drawn for rows without one."""
    index = complete_splits(index_of(*rows), wish or SplitRequest(), seed=0)
    kept = {(given, sample.split) for (_, given), sample in zip(rows, index.samples, strict=True) if given}
    assert all(given == split or (given, split) == ("train", "val") for given, split in kept)
    drawn = [sample for (_, given), sample in zip(rows, index.samples, strict=True) if not given]
    return Counter((sample.label, sample.split) for sample in drawn)


def test_what_comes_without_a_split_is_divided_among_the_splits_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    split = [("a", name) for name in ("train", "val", "test") for _ in range(10)]
    thirds = {("b", "train"): 14, ("b", "val"): 3, ("b", "test"): 3}
    assert rest_of([*split, *[("b", "")] * 20]) == thirds
    assert "20 images come without a split beside others that have one; they are divided among train, val, test" in (
        caplog.text
    )
    # The others have no test, so there is none, unless one is asked for.
    no_test = [row for row in split if row[1] != "test"]
    assert rest_of([*no_test, *[("b", "")] * 20]) == {("b", "train"): 17, ("b", "val"): 3}
    asked = SplitRequest(test_fraction=0.25, val_fraction=0.1)
    assert rest_of([*no_test, *[("b", "")] * 20], asked) == {("b", "train"): 13, ("b", "val"): 2, ("b", "test"): 5}
    # Validation is cut from all that is trained on, whatever came without a split.
    assert rest_of([*[("a", "train")] * 20, *[("b", "")] * 20]) == {("b", "train"): 17, ("b", "val"): 3}
    assert rest_of([*split[10:], *[("a", "")] * 20]) == {("a", "train"): 20}


def test_a_sample_without_a_split_goes_where_its_group_is() -> None:
    groups = ["", "x", "", "y", "x", "y", "z", "z"]
    splits = ["train", "val", "val", "test", "", "", "", ""]
    samples = [Sample(f"{n}", "a", split, group) for n, (split, group) in enumerate(zip(splits, groups, strict=True))]
    index = complete_splits(SampleIndex(Path("/d"), tuple(samples)), SplitRequest(), seed=0)
    *_, fifth, sixth, seventh, eighth = (sample.split for sample in index.samples)
    assert (fifth, sixth) == ("val", "test")
    assert seventh == eighth


def test_a_picture_in_two_splits_is_told(caplog: pytest.LogCaptureFixture) -> None:
    rows = (Sample("p", "a", "train"), Sample("p", "a", "test"), Sample("q", "a", "train"))
    report_overlap(SampleIndex(Path("/d"), rows))
    assert "1 images are in more than one split" in caplog.text


def test_fractions_must_leave_something() -> None:
    with pytest.raises(UserError, match="no training data"):
        complete_splits(index_of(("a", "")), SplitRequest(val_fraction=0.5, test_fraction=0.5), seed=0)


def test_the_manifest_is_read_back_as_written(tmp_path: Path) -> None:
    index = SampleIndex(tmp_path, (Sample('a, "b".png', "", "train", "s1"), Sample("ü\n.png", "x", "val")))
    write_manifest(tmp_path / "splits.csv", index)
    assert tuple(read_manifest(tmp_path / "splits.csv")) == index.samples
    (tmp_path / "splits.csv").write_text("file,kind\na,b\n")
    with pytest.raises(UserError, match="no split manifest"):
        read_manifest(tmp_path / "splits.csv")
    with pytest.raises(UserError, match="is no run folder"):
        read_manifest(tmp_path / "photos" / "splits.csv")


def test_a_run_that_goes_on_keeps_its_splits_whatever_came_since(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    began = complete_splits(index_of(*[("a", "")] * 10), SplitRequest(val_fraction=None, test_fraction=None), seed=0)
    now = index_of(*[("a", "")] * 13)
    assert restore_splits(now, began.samples, "raise") == began
    assert "3 samples added after the run began" in caplog.text
    fewer = SampleIndex(now.root, now.samples[1:])
    with pytest.raises(UserError, match="1 sample of the run missing: 0"):
        restore_splits(fewer, began.samples, "raise")
    assert restore_splits(fewer, began.samples, "skip").samples == began.samples[1:]


def test_a_run_cannot_go_on_without_one_of_its_classes() -> None:
    began = index_of(("a", "train"), ("b", "train"), ("b", "val"))
    with pytest.raises(UserError, match="missing"):
        restore_splits(SampleIndex(began.root, began.samples[1:]), began.samples, "skip")


@pytest.mark.parametrize(
    ("groups", "request_", "digest"),
    [
        (1, SplitRequest(), "09b35c3f998022bf"),
        (40, SplitRequest(), "b81b5be25fec4c94"),
        (1, SplitRequest(fold=1, num_folds=4), "c637f8b397b9f191"),
        (40, SplitRequest(fold=1, num_folds=4), "21666a9a8ce34a34"),
    ],
)
def test_random_splits_are_those_of_earlier_versions(groups: int, request_: SplitRequest, digest: str) -> None:
    # Each third image has two labels; without groups, its rarest one counts.
    rows = tuple(
        Sample(
            f"{row // 2 if row % 3 == 0 else row}",
            "abcdä"[min(row * row % 7, 4)],
            "",
            f"g{row % groups}" * (groups > 1),
        )
        for row in range(500)
    )
    index = complete_splits(SampleIndex(Path("/d"), rows), request_, seed=7)
    assert hashlib.sha256(" ".join(index.splits).encode()).hexdigest()[:16] == digest
