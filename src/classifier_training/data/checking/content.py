"""What a file holds, as a short name for it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_file(path: Path | str) -> bytes:
    """Hash a file's content: 16 bytes of BLAKE2.

    Raises:
        OSError: when it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
