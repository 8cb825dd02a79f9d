"""Which files show the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from classifier_training.data.checking.duplicates import MAX_DISTANCE, Copies, find_copies, join, propose
from classifier_training.data.checking.scan import FileScan, scan_files


@pytest.fixture
def photograph() -> Image.Image:
    return Image.fromarray(load_sample_image("flower.jpg")).resize((320, 214))


def scan(folder: Path) -> FileScan:
    return scan_files(folder, sorted(path.name for path in folder.iterdir()), num_workers=1)


def names(found: FileScan, groups: tuple[tuple[int, ...], ...]) -> list[set[str]]:
    return [{found.facts[place].path for place in group} for group in groups]


def copies_in(folder: Path) -> tuple[list[set[str]], list[set[str]]]:
    found = scan(folder)
    copies = find_copies(found)
    return names(found, copies.exact), names(found, copies.near)


def test_a_picture_re_encoded_resized_or_brightened_is_one_group(tmp_path: Path, photograph: Image.Image) -> None:
    photograph.save(tmp_path / "original.png")
    photograph.save(tmp_path / "encoded.jpg", quality=60)
    photograph.resize((160, 107)).save(tmp_path / "half.png")
    photograph.point(lambda value: min(255, round(value * 1.15))).save(tmp_path / "brighter.png")
    photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    Image.fromarray(load_sample_image("china.jpg")).resize((320, 214)).save(tmp_path / "another.png")
    exact, near = copies_in(tmp_path)
    assert exact == []
    assert near == [{"original.png", "encoded.jpg", "half.png", "brighter.png"}]


def test_the_same_bytes_are_exact_copies_and_no_near_ones(tmp_path: Path, photograph: Image.Image) -> None:
    photograph.save(tmp_path / "one.png")
    shutil.copyfile(tmp_path / "one.png", tmp_path / "two.png")
    assert copies_in(tmp_path) == ([{"one.png", "two.png"}], [])


def test_a_png_saved_again_is_a_near_copy_even_when_it_shows_little(tmp_path: Path) -> None:
    image = Image.new("L", (40, 40), 3)
    image.putpixel((5, 5), 9)
    image.save(tmp_path / "one.png", compress_level=1)
    image.save(tmp_path / "two.png", compress_level=0)
    assert copies_in(tmp_path) == ([], [{"one.png", "two.png"}])


def test_black_screens_and_smooth_slopes_are_no_copies(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (40 + number, 40)).save(tmp_path / f"black{number}.png")
    for number in range(3):
        slope = np.linspace(200, 210 + number, 64).astype(np.uint8)
        Image.fromarray(np.tile(slope, (64, 1))).save(tmp_path / f"sky{number}.png")
    assert copies_in(tmp_path) == ([], [])


def test_one_shape_in_two_colours_is_no_copy(tmp_path: Path) -> None:
    shape = np.asarray(Image.fromarray(load_sample_image("flower.jpg")).convert("L").resize((64, 64)))
    nothing = np.zeros_like(shape)
    Image.fromarray(np.stack([shape, nothing, nothing], axis=2)).save(tmp_path / "red.png")
    Image.fromarray(np.stack([nothing, nothing, shape], axis=2)).save(tmp_path / "blue.png")
    assert copies_in(tmp_path) == ([], [])


def test_two_slides_that_differ_in_a_line_are_no_copies(tmp_path: Path) -> None:
    from PIL import ImageDraw

    for number, words in enumerate(("Budget of next year", "Where we stand now!")):
        slide = Image.new("RGB", (640, 360), "white")
        pen = ImageDraw.Draw(slide)
        pen.rectangle((0, 0, 640, 60), fill=(20, 40, 120))
        pen.text((40, 120 + 60 * number), words, fill="black", font_size=56)
        slide.save(tmp_path / f"{number}.png")
    assert copies_in(tmp_path) == ([], [])


def test_a_thousand_copies_are_one_group(tmp_path: Path, photograph: Image.Image) -> None:
    photograph.resize((40, 27)).save(tmp_path / "0.png")
    for number in range(1, 1000):
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    exact, near = copies_in(tmp_path)
    assert [len(group) for group in exact] == [1000]
    assert near == []


def test_nothing_readable_gives_no_copies(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert find_copies(scan(tmp_path)) == Copies((), ())


def test_what_is_linked_through_others_is_one_group() -> None:
    assert join(7, [(0, 1), (2, 1), (5, 6)]) == [(0, 1, 2), (5, 6)]


def test_sorted_projections_propose_the_pairs_that_all_comparisons_find() -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(4000, 25)).astype(np.float32)
    # A tenth are near others, and fifty are nearly one.
    points[:400] = points[400:800] + random.normal(0, 0.1, (400, 25))
    points[3950:] = points[3950] + random.normal(0, 0.02, (50, 25))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distances = np.linalg.norm(points[:800, None] - points[None, :800], axis=2)
    expected = {(one, other) for one, other in np.argwhere(distances <= 0.3).tolist() if one < other}
    found = propose(points)
    assert len(expected) >= 400
    assert expected <= set(map(tuple, found.tolist()))
    assert (np.linalg.norm(points[found[:, 0]] - points[found[:, 1]], axis=1) <= MAX_DISTANCE + 1e-3).all()
    # What is alike in a large set is joined through its members, without all of its pairs.
    of_set = found[(found >= 3950).all(axis=1)]
    assert len(of_set) < 50 * 49 / 2
    assert join(4000, map(tuple, of_set.tolist())) == [tuple(range(3950, 4000))]


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(600):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number:03d}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = sorted(path.name for path in tmp_path.iterdir())
    done: list[int] = []
    alone = scan_files(tmp_path, paths, num_workers=1)
    together = scan_files(tmp_path, paths, num_workers=2, progress=done.append)
    assert together.facts == alone.facts
    assert np.array_equal(together.thumbnails, alone.thumbnails)
    assert sum(done) == len(paths)
    assert [fact.path for fact in alone.unreadable] == ["broken.png"]
