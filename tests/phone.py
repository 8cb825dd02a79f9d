"""A folder as it comes from phones and cameras: images, and all that lies beside them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from PIL import Image
from tests.conftest import COLOURS, draw_picture

BESIDE = {
    "blue/IMG_1.CR2": b"II*\0", "blue/IMG_2.dng": b"II*\0", "blue/IMG_3.MOV": b"\0\0\0\x14ftypqt  ",
    "blue/IMG_3.AAE": b"<plist/>", "blue/.DS_Store": b"x", "blue/._IMG_1.JPG": b"x", "red/Thumbs.db": b"x",
    "red/desktop.ini": b"x", "red/scan.psd": b"8BPS", "red/IMG_7": b"x", "red/album.json": b"{}", "bill.pdf": b"%PDF",
    "notes.txt": b"hello", "red/photos.tar": b"x", "__MACOSX/blue/._IMG_1.JPG": b"x", ".thumbnails/1.jpg": b"x",
    "Mr. Smith": b"x",
}  # fmt: skip
"""Files that are no image, or none that is read."""


def phone_folder(root: Path, *, heif: int = 3, jpeg: int = 8) -> Path:
    """Write class folders blue and red with HEIC and JPEG photos, one AVIF image, and a file of each other kind."""
    from pillow_heif import from_pillow

    for label in ("blue", "red"):
        for number in range(heif + jpeg):
            seed = 100 * len(label) + number
            path = root / label / f"IMG_{number:04d}.png"
            draw_picture(path, COLOURS[label], seed=seed)
            with Image.open(path) as image:
                if number < heif:
                    from_pillow(image).save(path.with_suffix(".HEIC"), quality=90)
                else:
                    image.save(path.with_suffix(".JPG"), quality=90)
                if number == 0 and label == "red":
                    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_suffix(".avif"))
            path.unlink()
    draw_picture(root / "loose.jpg", COLOURS["red"], seed=999)
    for name, content in BESIDE.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(content)
    with zipfile.ZipFile(root / "blue/more photos.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    return root


def num_files(root: Path) -> int:
    """All files below a folder, hidden ones among them."""
    return sum(path.is_file() for path in root.rglob("*"))
