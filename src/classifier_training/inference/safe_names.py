"""Texts as names of files and folders: legal, and never two texts with one name."""

from __future__ import annotations

import os
import re
from hashlib import sha256

EMPTY = "%empty"
"""The name of the empty text. No other text has it: elsewhere a percent sign is followed by two hexadecimal digits."""

UNSAFE = re.compile(r"[/\\%\x00-\x1f\x7f]|^\.|[. ]\Z")

MAX_BYTES = 240
"""Longest name; file systems allow 255 bytes, and a temporary name needs some more."""


def safe_name(text: str) -> str:
    """Return a folder name for any text, different for different texts.

    Slashes, backslashes, control characters, percent signs, a leading dot and blanks or dots at the end become `%NN`,
    their code in hexadecimal; the empty text becomes `%empty`; a long text is cut and ends in its hash.
    """
    if not text:
        return EMPTY
    coded = UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", text)
    return fit_file_name(coded)


def fit_file_name(name: str) -> str:
    """Cut a name that no file system holds, and put the hash of the whole name in place of the rest."""
    raw = os.fsencode(name)
    if len(raw) <= MAX_BYTES:
        return name
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a bare name
    mark = f"%~{sha256(raw).hexdigest()[:16]}{suffix[:16]}"
    return os.fsencode(stem)[: MAX_BYTES - len(os.fsencode(mark))].decode("utf-8", "ignore") + mark
