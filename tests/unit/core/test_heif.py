"""HEIC photos, which the extra heif reads."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier_training.core.image_files import UnreadableImageError, image_extensions, reads_heif
from classifier_training.core.images import read_header, read_preview, read_rgb, rgb_of

pillow_heif = pytest.importorskip("pillow_heif")


@pytest.fixture
def picture() -> Image.Image:
    """Blue, with a red corner at its upper left."""
    drawn = Image.new("RGB", (80, 60), (30, 60, 200))
    drawn.paste((220, 30, 30), (0, 0, 30, 20))
    return drawn


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_upright_and_has_its_colours(picture: Image.Image, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", quality=95, exif=exif.tobytes(), subsampling=0)
    written = pillow_heif.from_pillow(picture)
    written.info["exif"] = exif.tobytes()
    written.save(tmp_path / "a.HEIC", quality=95)
    photo, expected = read_rgb(tmp_path / "a.HEIC"), read_rgb(tmp_path / "a.jpg")
    assert photo.size == expected.size == ((60, 80) if orientation > 4 else (80, 60))
    assert mean_difference(photo, expected) < 3
    assert mean_difference(rgb_of((tmp_path / "a.HEIC").read_bytes()), photo) == 0
    header = read_header(tmp_path / "a.HEIC")
    assert (header.width, header.height) == photo.size
    preview = read_preview(tmp_path / "a.HEIC", min_side=32)
    assert mean_difference(preview.image.resize(photo.size), photo) < 3


def test_transparency_is_white_and_grey_is_grey(picture: Image.Image, tmp_path: Path) -> None:
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    pillow_heif.from_pillow(clear).save(tmp_path / "clear.heic")
    assert np.asarray(read_rgb(tmp_path / "clear.heic")).min() > 250
    pillow_heif.from_pillow(picture.convert("L")).save(tmp_path / "grey.heic", quality=95)
    red, green, blue = np.asarray(read_rgb(tmp_path / "grey.heic"), dtype=int).reshape(-1, 3).T
    assert np.abs(red - green).max() <= 2
    assert np.abs(red - blue).max() <= 2


def test_the_content_decides_and_pillow_is_left_as_it_is(picture: Image.Image, tmp_path: Path) -> None:
    pillow_heif.from_pillow(picture).save(tmp_path / "a.heic")
    (tmp_path / "a.heic").rename(tmp_path / "named.jpg")
    assert read_rgb(tmp_path / "named.jpg").size == (80, 60)
    assert "HEIF" not in Image.OPEN
    picture.save(tmp_path / "b.avif")
    assert read_rgb(tmp_path / "b.avif").size == (80, 60)


def test_a_photo_that_is_cut_short_is_told_as_unreadable(picture: Image.Image, tmp_path: Path) -> None:
    pillow_heif.from_pillow(picture).save(tmp_path / "a.heic")
    content = (tmp_path / "a.heic").read_bytes()
    for size in (20, len(content) // 2, len(content) - 9):
        (tmp_path / "cut.heic").write_bytes(content[:size])
        with pytest.raises(UnreadableImageError):
            read_rgb(tmp_path / "cut.heic")


def test_without_the_extra_the_error_says_what_to_install(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif.from_pillow(picture).save(tmp_path / "a.heic")
    assert ".heic" in image_extensions()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reads_heif.cache_clear()
    try:
        assert ".heic" not in image_extensions()
        with pytest.raises(UnreadableImageError, match="a HEIC photo needs pillow-heif, which is not") as caught:
            read_header(tmp_path / "a.heic")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    finally:
        monkeypatch.undo()
        reads_heif.cache_clear()
    assert caught.value.remedy.startswith("uv sync --extra heif   (or: pip install 'classifier-training[heif]')")
