"""What the checks say of a data set."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import draw_picture

from classifier_training.core.errors import UserError
from classifier_training.core.images import FULL_RANGE
from classifier_training.core.preprocess import Preprocessing
from classifier_training.data.checking.duplicates import check_copies, find_copies
from classifier_training.data.checking.findings import Finding, Inspected, check_files, cropped_share, rank
from classifier_training.data.checking.preflight import MAX_LINES, check_classes, exact_copies, preflight
from classifier_training.data.checking.scan import scan_files
from classifier_training.data.checking.statistics import scan_headers
from classifier_training.data.image_settings import check_depth
from classifier_training.data.index import SampleIndex
from classifier_training.data.samples import Sample

NONE = (0.5, 0.5, 0.5)
RED = (200, 40, 40)


def indexed(root: Path, *samples: Sample) -> SampleIndex:
    return SampleIndex(root, samples)


def many(label: str, split: str, number: int = 30, group: str = "") -> list[Sample]:
    return [Sample(f"{split}/{label}/{place}.png", label, split, group) for place in range(number)]


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def test_an_image_in_several_rows_is_named(tmp_path: Path) -> None:
    rows = [*many("a", "train"), *many("b", "train")]
    more = [
        Sample("train/a/3.png", "b", "train"),
        Sample("train/a/4.png", "a", "train"),
        Sample("train/b/5.png", "b", ""),
    ]
    found = {finding.code: finding for finding in check_classes(indexed(tmp_path, *rows, *more))}
    assert found["image_with_several_labels"].rows == (("train/a/3.png", "a, b"),)
    assert [row[0] for row in found["image_listed_again"].rows] == ["train/a/4.png", "train/b/5.png"]
    lines = preflight(indexed(tmp_path, *rows, *more), [], allow_leaks=False)
    assert any("1 image with several labels; the first: train/a/3.png" in line for line in lines)
    assert not {"image_with_several_labels", "image_listed_again"} & set(
        codes([*check_classes(indexed(tmp_path, *rows))])
    )


def crop(size: int) -> Preprocessing:
    return Preprocessing(size=(size, size), mean=NONE, std=NONE, policy="crop")


@pytest.mark.parametrize(
    "spellings",
    [
        ("Cat", "cat"),
        ("cat", "cat "),
        ("no signal", "no_signal"),
        tuple(unicodedata.normalize(f, "é") for f in ("NFC", "NFD")),
    ],
)
def test_one_class_in_two_spellings_is_an_error(tmp_path: Path, spellings: tuple[str, str]) -> None:
    index = indexed(tmp_path, *many(spellings[0], "train"), *many(spellings[1], "train"), *many("dog", "train"))
    (finding,) = check_classes(index)
    assert (finding.code, finding.severity, finding.count) == ("class_spelt_twice", "error", 1)
    assert len({row[1] for row in finding.rows}) == 2, "both spellings can be told apart"


def test_numbers_are_no_spellings_of_each_other(tmp_path: Path) -> None:
    index = indexed(tmp_path, *many("1", "train"), *many("11", "train"), *many("", "train"))
    assert list(check_classes(index)) == []


def test_a_plural_is_a_warning(tmp_path: Path) -> None:
    index = indexed(tmp_path, *many("dog", "train"), *many("dogs", "train"))
    assert codes(list(check_classes(index))) == ["class_singular_and_plural"]


def test_classes_that_a_split_lacks_are_named(tmp_path: Path) -> None:
    index = indexed(tmp_path, *many("a", "train"), *many("b", "train"), *many("a", "val"), *many("c", "val"))
    found = {finding.code: finding for finding in check_classes(index)}
    assert found["classes_missing_from_train"].rows == (("c",),)
    assert found["classes_missing_from_val"].rows == (("b",),)
    assert "classes_missing_from_test" not in found


def test_a_session_on_both_sides_is_an_error(tmp_path: Path) -> None:
    index = indexed(
        tmp_path, *many("a", "train", group="one"), *many("a", "val", group="one"), *many("a", "test", group="two")
    )
    (finding,) = check_classes(index)
    assert (finding.code, finding.rows) == ("groups_across_splits", (("one", "train, val"),))


def test_tiny_classes_and_imbalance(tmp_path: Path) -> None:
    index = indexed(tmp_path, *many("a", "train", 100), *many("b", "train", 4))
    assert codes(list(check_classes(index))) == ["tiny_classes", "imbalance"]


def test_copies_are_told_by_their_gravest_fault(tmp_path: Path) -> None:
    places = {"train/a/1.png": 1, "val/a/1.png": 1, "train/a/2.png": 2, "train/b/2.png": 2, "train/a/3.png": 3,
              "train/a/4.png": 3, "train/b/5.png": 5}  # fmt: skip
    for path, seed in places.items():
        draw_picture(tmp_path / path, RED, seed=seed)
    index = indexed(tmp_path, *(Sample(path, path.split("/")[1], path.split("/")[0]) for path in places))
    inspected = Inspected(index, scan_files(tmp_path, list(places), num_workers=1))
    found = {finding.code: finding for finding in check_copies(inspected, find_copies(inspected.scan))}
    assert list(found) == ["exact_copies_across_splits", "exact_copies_with_two_labels", "exact_copies"]
    (group,) = found["exact_copies_across_splits"].examples
    assert [picture.caption for picture in group] == ["train, a", "val, a"]
    assert [finding.severity for finding in found.values()] == ["error", "error", "warning"]


def test_files_with_faults_are_named_with_their_reasons(tmp_path: Path) -> None:
    draw_picture(tmp_path / "good.png", RED, seed=0)
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:600])
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "green").save(tmp_path / "turned.jpg", exif=exif)
    paths = sorted(path.name for path in tmp_path.iterdir())
    index = indexed(tmp_path, *(Sample(path, "a", "train") for path in paths))
    inspected = Inspected(index, scan_files(tmp_path, paths, num_workers=1))
    found = {finding.code: finding for finding in check_files(inspected, crop(32))}
    assert {row[0] for row in found["unreadable_files"].rows} == {"zero.png", "text.png", "cut.png"}
    assert all(row[1] for row in found["unreadable_files"].rows)
    assert found["animated"].rows == (("moving.gif",),)
    assert found["turned_by_exif"].rows == (("turned.jpg",),)


def test_the_crop_counts_what_it_throws_away() -> None:
    assert cropped_share(200, 100, crop(50)) == pytest.approx(0.5)
    assert cropped_share(100, 100, crop(50)) == 0
    squash = Preprocessing(size=(50, 50), mean=NONE, std=NONE)
    assert cropped_share(200, 100, squash) == 0


def test_findings_stand_by_severity() -> None:
    def finding(severity: str) -> Finding:
        return Finding(code=severity, severity=severity, title="", words="", remedy="", count=1)  # type: ignore[arg-type]

    assert codes(rank(map(finding, ("note", "error", "warning")))) == ["error", "warning", "note"]


def test_files_of_one_size_are_told_apart_by_their_content(tmp_path: Path) -> None:
    beginning = b"x" * 5000
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d", b"123")):
        (tmp_path / name).write_bytes(beginning + content)
    assert exact_copies(tmp_path, ["a", "b", "c", "d", "gone"]) == [("a", "c")]


def copies_of(index: SampleIndex) -> list[tuple[str, ...]]:
    return exact_copies(index.root, list(dict.fromkeys(sample.path for sample in index.samples)))


def test_a_leak_is_refused_unless_allowed(tmp_path: Path) -> None:
    for path in ("train/a/1.png", "val/a/1.png"):
        draw_picture(tmp_path / path, RED, seed=1)
    index = indexed(tmp_path, Sample("train/a/1.png", "a", "train"), Sample("val/a/1.png", "a", "val"))
    with pytest.raises(UserError, match=r"exact duplicates across splits.*val/a/1.png, train/a/1.png") as caught:
        preflight(index, copies_of(index), allow_leaks=False)
    assert "allow_leaks=true" in caught.value.remedy
    lines = preflight(index, copies_of(index), allow_leaks=True)
    assert "2 files in 1 group are exact duplicates across splits" in lines[0]


def test_a_preflight_says_at_most_five_lines(tmp_path: Path) -> None:
    for path, seed in (("a1", 1), ("b1", 1), ("a2", 2), ("v2", 2), ("a3", 3), ("a4", 3)):
        draw_picture(tmp_path / f"{path}.png", RED, seed=seed)
    index = indexed(
        tmp_path, Sample("a1.png", "a", "train"), Sample("b1.png", "A", "train"), Sample("a2.png", "a", "train"),
        Sample("v2.png", "a", "val"), Sample("a3.png", "dog", "train", "g"), Sample("a4.png", "dog", "train", "g"),
        *many("dogs", "train"), Sample("a3.png", "dog", "val", "g"),
    )  # fmt: skip
    lines = preflight(index, copies_of(index), allow_leaks=True)
    assert len(lines) == MAX_LINES
    assert "more" in lines[-1]


def deep_data(root: Path, largest: int, *, ending: str = "png") -> SampleIndex:
    """Write images with samples of 16 bits up to a value."""
    samples = []
    for number in range(4):
        values = np.random.default_rng(number).integers(0, largest, (20, 30)).astype(np.uint16)
        values[0, 0] = largest - number
        (root / "train/a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / f"train/a/{number}.{ending}")
        samples.append(Sample(f"train/a/{number}.{ending}", "a", "train"))
    return indexed(root, *samples)


@pytest.mark.parametrize(("largest", "setting"), [(4000, 4095), (1023, 1023), (200, 255), (40_000, None)])
def test_grey_samples_that_use_a_part_of_their_range_are_found(
    largest: int, setting: int | None, tmp_path: Path
) -> None:
    index = deep_data(tmp_path, largest)
    data = Inspected(index, scan_files(tmp_path, [sample.path for sample in index.samples], num_workers=1))
    found = [finding for finding in check_files(data, crop(8)) if finding.code == "dark_samples"]
    depth = scan_headers(index).depth
    lines = check_depth(depth, tmp_path, max_value=FULL_RANGE)
    if setting is None:
        assert (found, lines) == ([], [])
        return
    (finding,) = found
    assert (finding.severity, finding.count) == ("warning", 4)
    assert finding.remedy.startswith(f"transforms.max_value={setting} ")
    assert f"{largest:,} of 65,535" in finding.words
    (line,) = lines
    assert "4 grey images of more than 8 bits" in line
    assert f"transforms.max_value={setting} " in line
    assert check_depth(depth, tmp_path, max_value=setting) == []
    (line,) = check_depth(depth, tmp_path, max_value=max(255, setting // 4)) if setting > 255 else ["are cut off at"]
    assert "are cut off at" in line


def test_a_white_that_no_picture_needs_is_refused(tmp_path: Path) -> None:
    draw_picture(tmp_path / "a/0.png", RED, seed=0)
    with pytest.raises(UserError, match=r"transforms\.max_value=4095 has no effect"):
        check_depth(scan_headers(indexed(tmp_path, Sample("a/0.png", "a"))).depth, tmp_path, max_value=4095)


def test_colours_that_use_a_part_of_their_range_are_found(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 9, 3), 4095, np.uint16))
    index = indexed(tmp_path, Sample("a.png", "a", "train"))
    (finding,) = [
        finding
        for finding in check_files(
            Inspected(index, scan_files(tmp_path, [sample.path for sample in index.samples], num_workers=1)), crop(8)
        )
        if finding.code == "dark_colours"
    ]
    assert finding.count == 1
    (line,) = check_depth(scan_headers(index).depth, tmp_path, max_value=FULL_RANGE)
    assert "the largest of these is 15 of 255" in line
