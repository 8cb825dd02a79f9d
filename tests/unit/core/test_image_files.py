from __future__ import annotations

import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from classifier_training.core import image_files
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_rgb, read_size, rgb_of

if TYPE_CHECKING:
    from pathlib import Path


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"hello", "not an image")])
def test_files_that_are_no_images(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        read_size(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="no such file"):
        read_rgb(tmp_path / "none.png")
    with pytest.raises(UnreadableImageError, match="folder"):
        read_rgb(tmp_path)


def test_pixels_are_counted_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_PIXELS", 99)
    with pytest.raises(UnreadableImageError, match="more than 99 pixels"):
        read_rgb(save(tmp_path / "a.png", Image.new("RGB", (10, 10))))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match="pipe"):
        read_rgb(tmp_path / "a.png")


def test_links_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match="symbolic links"):
        read_rgb(tmp_path / "a.png")


WEBP: dict[str, dict[str, Any]] = {
    "lossy": {},
    "lossless": {"lossless": True},
    "extended": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"},
}


@pytest.mark.parametrize("kind", WEBP)
def test_the_pixels_of_a_webp_are_counted_before_it_is_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = save(tmp_path / "a.webp", Image.new("RGB", (301, 42), "red"), **WEBP[kind])
    assert read_size(small) == (301, 42)
    large = save(tmp_path / "b.webp", Image.new("RGB", (301, 43), "red"), **WEBP[kind])
    content = large.read_bytes()
    monkeypatch.setattr(image_files, "MAX_PIXELS", 301 * 42)
    assert read_rgb(small).size == (301, 42)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(UnreadableImageError, match="more than 12,642 pixels"):
        read_rgb(large)
    with pytest.raises(UnreadableImageError, match="more than 12,642 pixels"):
        rgb_of(content)


def test_threads_leave_the_warnings_as_they_were(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (3, 3)))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert {image.size for image in pool.map(read_rgb, [path] * 400)} == {(3, 3)}
    assert list(warnings.filters) == before


def test_a_format_off_the_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError):
        read_rgb(save(tmp_path / "a.png", Image.new("RGB", (4, 4)), format="TGA"))


def test_the_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("a.png", "why")))
    assert (error.path, error.reason) == ("a.png", "why")
