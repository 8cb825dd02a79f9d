"""What the forms that name their images in a file have in common: its text, and where an image lies."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from classifier_training.core.contained import escapes
from classifier_training.core.errors import UserError
from classifier_training.data.index import split_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from classifier_training.data.walk import Walker


def open_text(file: Path, *, encoding: str = "utf-8", setting: str = "") -> Iterator[str]:
    """Give the lines of a text file, ends of line kept as they are.

    Args:
        file: the file.
        encoding: of the text; a mark at its beginning is dropped.
        setting: the setting by which the user names another encoding, if there is one.

    Raises:
        UserError: when it cannot be read, or a line is not in that encoding.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    text = line.decode(encoding)
                except UnicodeDecodeError as error:
                    raise _not_encoded(file, number, error, encoding, setting) from error
                yield text.removeprefix("\ufeff") if number == 1 else text
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", "a file that can be read", "fix its permissions") from error


def _not_encoded(file: Path, number: int, error: UnicodeDecodeError, encoding: str, setting: str) -> UserError:
    shown = error.object[max(error.start - 10, 0) : error.start + 5].decode("latin-1").strip()
    convert = f"iconv -f latin1 -t utf-8 {file.name} > utf8{file.suffix}"
    return UserError(
        f"{file}:{number}: not {encoding.upper()} (byte 0x{error.object[error.start]:02x} in {shown!r})",
        f"text in {encoding.upper()}",
        f"{setting}=latin-1 reads it as it is; or: {convert}" if setting else convert,
    )


def named_split(word: object, where: str) -> str:
    """Return the split that a row names: train, val or test, or nothing.

    Raises:
        UserError: when it is none of these.
    """
    text = str(word or "")
    if text and not split_of(text):
        raise UserError(f"{where}: split '{text}'", "train, val or test, or nothing", "mend the row")
    return split_of(text)


def locate(name: str, where: str, folders: Sequence[Path], walker: Walker) -> str:
    """Find an image in the first of the folders that holds it; never outside the root.

    Args:
        name: as it is written, relative to one of the folders, or absolute and inside the root.
        where: file and line, for messages.
        folders: to look in.
        walker: of the root.

    Returns:
        The path relative to the root.

    Raises:
        UserError: when there is no such file, or it is not inside the root.
    """
    root = str(walker.root).rstrip("/") + "/"
    pure = PurePosixPath(name)
    if escapes(str(pure).removeprefix(root)):
        raise UserError(
            f"{where}: the image path {name!r} leads out of the data folder {walker.root}",
            f"a path relative to {folders[0]}, inside data.root",
            "mend the path in that row, or name the folder that holds all images: data.root=…",
        )
    if pure.is_absolute():
        pure, folders = PurePosixPath(os.path.relpath(pure, root)), [walker.root]
    for base in folders:
        if walker.holds(base, str(pure)):
            return f"{base}/{pure}"[len(root) :]
    raise UserError(
        f"{where}: the image {name!r} does not exist",
        f"a file below {folders[0]}",
        "mend the path in that row, or remove the row",
    )
