from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from classifier_training.core import images
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.images import read_header, read_peak, read_preview, read_rgb, read_size

if TYPE_CHECKING:
    from pathlib import Path


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[274] = 6  # to be turned a quarter clockwise
    upright = read_rgb(save(tmp_path / "a.png", image, exif=exif))
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2)) == (0, 0, 255)
    assert read_size(tmp_path / "a.png") == (20, 10)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"\0" * 40, b"garbage"])
@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_an_image_whose_exif_is_damaged_is_upright(tmp_path: Path, exif: bytes, ending: str) -> None:
    path = save(tmp_path / f"a.{ending}", Image.new("RGB", (20, 10), "red"), exif=exif)
    assert read_rgb(path).size == (20, 10)
    assert read_preview(path, min_side=10).image.size == (20, 10)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_common_mode_becomes_the_same_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.new("RGB", (4, 4), (255, 255, 255))
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    read = read_rgb(save(tmp_path / f"a.{suffix}", grey.convert(mode)))
    assert read.mode == "RGB"
    assert np.asarray(read).min() >= 250


def test_transparent_pixels_are_white_whatever_colour_hides_below(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    read = read_rgb(save(tmp_path / "a.png", image))
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_transparency_of_a_palette_is_seen(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    read = read_rgb(save(tmp_path / "a.png", image, transparency=0))
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    read = read_rgb(save(tmp_path / "a.png", Image.fromarray(values)))
    assert np.asarray(read)[0, :, 0].tolist() == [0, 100, 255]


RAMP = np.array([[0, 273, 1365, 4095]], dtype=np.uint16)
"""Samples of 12 bits: black, two greys and white."""
GREYS = [0, 17, 85, 255]


def with_chunk(path: Path, kind: bytes, content: bytes) -> Path:
    """Put a chunk behind a PNG's header."""
    whole = path.read_bytes()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(whole[:33] + chunk + whole[33:])
    return path


def grey(path: Path, **settings: Any) -> list[int]:
    return np.asarray(read_rgb(path, **settings))[0, :, 0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("tag", [281, 341])
def test_a_tiff_may_say_which_value_is_white(tag: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(RAMP), tiffinfo={tag: 4095})
    assert grey(path) == grey(path, max_value=1023) == GREYS
    assert not read_header(path).lacks_range


@pytest.mark.parametrize("largest", [3021, 65535, 2047])
def test_what_a_tiff_says_counts_only_as_a_range_that_holds(largest: int, tmp_path: Path) -> None:
    """The largest sample of an image, all 16 bits, and a range that its samples are past, are none."""
    path = save(tmp_path / "a.tif", Image.fromarray(RAMP), tiffinfo={281: largest})
    assert grey(path) == [0, 1, 5, 16]
    assert grey(path, max_value=4095) == GREYS


def test_a_tiff_of_twelve_bits_a_sample_is_read_by_its_bits(tmp_path: Path) -> None:
    packed = bytes([0x00, 0x01, 0x11, 0x55, 0x5F, 0xFF])  # 0, 0x111, 0x555, 0xFFF
    entries = [(256, 3, 4), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1),
               (278, 3, 1), (279, 4, 6)]  # fmt: skip
    directory = b"".join(struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, 1, *([value, 0] if kind == 3 else
                         [value])) for tag, kind, value in entries)  # fmt: skip
    content = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)
    assert len(content) == 122
    (tmp_path / "a.tif").write_bytes(content + packed)
    assert grey(tmp_path / "a.tif") == GREYS


def test_significant_bits_of_a_png_count_where_its_samples_were_not_scaled(tmp_path: Path) -> None:
    plain = with_chunk(save(tmp_path / "a.png", Image.fromarray(RAMP)), b"sBIT", b"\x0c")
    assert grey(plain) == GREYS
    assert not read_header(plain).lacks_range
    # As PNG wants it: by repeating the upper bits, also where all samples are so dark that 12 bits would hold them.
    scaled = (RAMP << 4 | RAMP >> 8).astype(np.uint16)
    path = with_chunk(save(tmp_path / "b.png", Image.fromarray(scaled)), b"sBIT", b"\x0c")
    assert grey(path) == grey(path, max_value=4095) == GREYS
    dark = np.minimum(scaled, 255 << 4).astype(np.uint16)
    assert grey(with_chunk(save(tmp_path / "c.png", Image.fromarray(dark)), b"sBIT", b"\x0c")) == [0, 16, 16, 16]


def test_a_portable_grey_map_says_it_in_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 4095\n" + RAMP.astype(">u2").tobytes())
    assert grey(tmp_path / "a.pgm") == grey(tmp_path / "a.pgm", max_value=1023) == GREYS


def test_where_no_file_says_it_the_user_does(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(RAMP))
    assert read_header(path) == (4, 1, True, False)
    assert read_peak(path) == 4095
    assert grey(path) == [0, 1, 5, 16]
    assert grey(path, max_value=4095) == GREYS
    assert grey(path, max_value=1365) == [0, 51, 255, 255]
    assert np.asarray(read_preview(path, min_side=1).image)[0, :, 0].tolist() == GREYS, "to be looked at"
    assert read_preview(path, min_side=1).peak == 4095


@pytest.mark.parametrize("chunks", [b"", b"\xff\xff\xff\xffxxxx", (struct.pack(">I", 0) + b"tEXt" + bytes(4)) * 5000])
def test_a_damaged_row_of_chunks_says_nothing(chunks: bytes, tmp_path: Path) -> None:
    whole = save(tmp_path / "a.png", Image.fromarray(RAMP)).read_bytes()
    assert images._significant_bits(io.BufferedReader(io.BytesIO(whole[:33] + chunks))) is None


def test_colours_of_sixteen_bits_are_known_as_cut(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for ending in ("png", "tif"):
        for channels in (3, 4):
            path = tmp_path / f"a{channels}.{ending}"
            cv2.imwrite(str(path), np.full((2, 3, channels), 4095, np.uint16))
            assert read_header(path) == (3, 2, False, True), path
    assert not read_header(save(tmp_path / "b.png", Image.new("RGB", (3, 2)))).is_cut


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_rgb(path).getpixel((0, 0)) == (255, 0, 0)


def test_float_pixels_are_refused_with_words(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tiff", Image.fromarray(np.zeros((2, 2), dtype=np.float32)))
    with pytest.raises(UnreadableImageError, match="floating-point"):
        read_rgb(path)


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:1500])
    assert read_size(path) == (64, 64)
    with pytest.raises(UnreadableImageError, match="damaged"):
        read_rgb(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "bmp", "tif", "webp", "ppm"])
def test_any_damage_is_told_as_unreadable(tmp_path: Path, ending: str) -> None:
    generator = np.random.default_rng(0)
    whole = save(tmp_path / f"a.{ending}", Image.fromarray(generator.integers(0, 255, (40, 40, 3)).astype(np.uint8)))
    content = whole.read_bytes()
    unreadable = 0
    for number in range(60):
        spoilt = bytearray(content[: int(generator.integers(1, len(content)))] if number % 2 else content)
        for place in generator.integers(0, len(spoilt), 6):
            spoilt[place] = int(generator.integers(0, 256))
        whole.write_bytes(spoilt)
        try:
            assert read_rgb(whole).mode == "RGB"
        except UnreadableImageError:
            unreadable += 1
    assert unreadable


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (255, 0, 255)), ("L", 7)])
def test_a_transparent_colour_is_white(tmp_path: Path, mode: str, colour: tuple[int, int, int] | int) -> None:
    read = read_rgb(save(tmp_path / "a.png", Image.new(mode, (1, 1), colour), transparency=colour))
    assert read.getpixel((0, 0)) == (255, 255, 255)
