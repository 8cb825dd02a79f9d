"""Images that were made to crash, hang or fill the memory."""

from __future__ import annotations

import gc
import io
import os
import random
import resource
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier_training.core.image_files import UnreadableImageError, reads_heif
from classifier_training.core.images import read_rgb
from classifier_training.core.preprocess import Preprocessing
from classifier_training.inference.decoding import decode
from classifier_training.inference.sources import Item

SEED = 20_261_122

PREPROCESSING = Preprocessing(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

ENDINGS = ("jpg", "png", "gif", "bmp", "tif", "webp", "ppm", "avif", "heic", "jpg")


def originals(number: int) -> Iterator[tuple[str, bytes]]:
    """Draw small images in every format that is read, in several modes."""
    from PIL import features

    generator = np.random.default_rng(SEED)
    readable = {"avif": features.check("avif"), "heic": reads_heif()}
    endings = [ending for ending in ENDINGS if readable.get(ending, True)]
    for place in range(number):
        ending = endings[place % len(endings)]
        side = int(generator.integers(8, 80))
        waves = np.add.outer(np.sin(np.arange(side) / 5), np.cos(np.arange(side) / (3 + place % 7)))[..., None]
        pixels = (120 + 50 * waves + generator.normal(0, 12, (side, side, 3))).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
        options: dict[str, object] = {}
        if ending in ("png", "tif", "gif") and place % 3 == 0:
            image = image.convert(("P", "L", "RGBA")[place % 9 // 3] if ending != "gif" else "P")
        if ending == "jpg":
            exif = Image.Exif()
            exif[274] = place % 8 + 1
            options = {"exif": exif, "progressive": place % 2 == 0}
        if ending == "tif":
            options = {"compression": ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg")[place % 5]}
            image = image.convert("RGB") if options["compression"] == "jpeg" else image
        buffer = io.BytesIO()
        if ending == "heic":
            from pillow_heif import from_pillow

            from_pillow(image).save(buffer, quality=80)
        else:
            image.save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(ending, ending), **options)
        yield ending, buffer.getvalue()


def mutated(draw: random.Random, content: bytes) -> bytes:
    """Spoil a file: flip, cut, double, insert, or set a field to a number that decoders stumble over."""
    spoilt = bytearray(content)
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(spoilt) or 1)
        kind = draw.randrange(6)
        if kind == 0 and spoilt:
            spoilt[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del spoilt[place:]
        elif kind == 2:
            spoilt[place:place] = spoilt[place : place + draw.randrange(1, 64)]
        elif kind == 3:
            spoilt[place:place] = draw.randbytes(draw.randrange(1, 16))
        elif kind == 4:
            spoilt[place : place + 4] = draw.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0"]
            )
        else:
            # The first bytes say most.
            spoilt[draw.randrange(min(40, len(spoilt) or 1)) :][:1] = draw.randbytes(1)
            if spoilt:
                spoilt[draw.randrange(min(40, len(spoilt)))] = draw.randrange(256)
    return bytes(spoilt)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_mutated_images_are_read_or_named_in_time_and_in_little_memory(count: int, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    per_original = count // 100
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = num_read = num_named = 0.0
    for number, (ending, content) in enumerate(originals(100)):
        paths = []
        for turn in range(per_original):
            path = tmp_path / f"{turn}.{ending}"
            path.write_bytes(mutated(draw, content))
            paths.append(path)
        # One by one: the time of each is the claim.
        for turn, path in enumerate(paths):
            started = time.process_time()
            (found,) = decode([Item(str(path), path.name)], PREPROCESSING, ahead=1)
            seconds = time.process_time() - started
            assert seconds < 2, f"seed {SEED}, original {number}, mutation {turn}"
            slowest = max(slowest, seconds)
            if found.error is None:
                assert found.tensor is not None
                assert found.tensor.shape == (3, 32, 32)
                num_read += 1
            else:
                assert found.error
                num_named += 1
    assert num_read + num_named == 100 * per_original
    assert num_named > count / 10
    assert num_read > count / 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def png(
    width: int, height: int, *, rows: bytes | None = None, extra: bytes = b"", mode: int = 0, depth: int = 1
) -> bytes:
    """Put a PNG together whose header says what one likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)
    data = zlib.compress(rows if rows is not None else bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(width: int, height: int, form: str, mode: str = "1", **options: object) -> bytes:
    """One colour, packed as small as the format can."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format=form, **options)
    return buffer.getvalue()


def text_chunk(num_bytes: int) -> bytes:
    data = b"Comment\0\0" + zlib.compress(bytes(num_bytes), 9)
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


def bombs() -> dict[str, bytes]:
    """Twenty small files that stand for much."""
    large = png(12_000, 12_000, rows=bytes(12_000 * 1501))
    plain = (100, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    packed = (100, 0, 54, 40, 50_000, 50_000, 1, 8, 1, 0, 0, 0, 2, 0)
    return {
        "png 50000 x 50000": png(50_000, 50_000),
        "png 2^31 wide": png(2**31 - 1, 1),
        "png 2^31 high": png(1, 2**31 - 1),
        "png 60000 x 60000 rgba": png(60_000, 60_000, mode=6, depth=8),
        "png 12000 x 12000 of 20 KB": large,
        "png 13000 x 13000, 16 bits": png(13_000, 13_000, mode=2, depth=16),
        "png text of 200 MB": png(8, 8, rows=bytes(16), extra=text_chunk(200 * 2**20)),
        "png 100 texts of 20 MB": png(8, 8, rows=bytes(16), extra=text_chunk(20 * 2**20) * 100),
        "gif 65535 x 65535": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0",
        "gif 10000 x 10000": saved(10_000, 10_000, "GIF", "L"),
        "bmp 2^30 x 2^30": b"BM" + struct.pack("<IIIIiiHHIIiiII", *plain),
        "bmp 50000 x 50000 rle": b"BM" + struct.pack("<IIIIiiHHIIiiII", *packed) + bytes(64),
        "ppm 100000 x 100000": b"P6\n100000 100000\n255\n" + bytes(100),
        "pgm 99999999 x 2": b"P5\n99999999 2\n255\n" + bytes(10),
        "tiff 100000 x 100000": tiff(100_000, 100_000),
        "tiff 2^31 x 1": tiff(2**31 - 1, 1),
        "tiff 10000 x 10000, group 4": saved(10_000, 10_000, "TIFF", "1", compression="group4"),
        "tiff 8000 x 8000, deflate": saved(8000, 8000, "TIFF", "L", compression="tiff_deflate"),
        "jpeg 65500 x 65500": jpeg_of(65_500, 65_500),
        "webp 8000 x 8000, lossless": saved(8000, 8000, "WEBP", "RGB", lossless=True),
    }  # fmt: skip


def tiff(width: int, height: int) -> bytes:
    """A TIFF whose tags say what one likes."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(104)


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose frame header says what one likes."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, format="JPEG")
    content = bytearray(buffer.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def test_bombs_are_refused_in_a_second_and_in_little_memory(tmp_path: Path) -> None:
    found = bombs()
    assert len(found) == 20
    for name, content in found.items():
        path = tmp_path / f"a.{name.split()[0]}"
        path.write_bytes(content)
        # In a process of its own: the peak of this one never falls.
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            # Collecting the garbage of all tests before would copy their memory.
            gc.disable()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            started = time.process_time()
            try:
                read_rgb(path)
                answer = "read"
            except UnreadableImageError as error:
                answer = f"refused: {error.reason}"
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is reported
                answer = f"crashed: {error!r}"
            seconds = time.process_time() - started
            growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            os.write(writing, f"{seconds:.3f} {growth:.0f} {answer}".encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as said:
            seconds_text, growth_text, answer = said.read().split(" ", 2)
        assert os.waitpid(pid, 0)[1] == 0, name
        assert answer.startswith("refused"), f"{name}: {answer}"
        assert float(seconds_text) < 1, f"{name}: {seconds_text} s"
        assert float(growth_text) < 200, f"{name}: {growth_text} MB"


def test_a_large_photograph_is_no_bomb(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((8000, 6000), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=60)
    assert read_rgb(tmp_path / "a.jpg").size == (8000, 6000)


def test_a_file_past_the_limit_of_bytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.truncate(path, 2**30 + 1)
    started = time.process_time()
    with pytest.raises(UnreadableImageError, match="more than 1,073,741,824 bytes"):
        read_rgb(path)
    assert time.process_time() - started < 0.5
