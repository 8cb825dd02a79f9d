"""The one way from a name that was read somewhere to a file: inside its folder, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def escapes(name: str) -> bool:
    """Whether a name leads out of the folder that it begins from, whatever lies there; an empty one does, too."""
    pure = PurePosixPath(name)
    return not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in name


def contained(root: Path, name: str, *, where: str) -> Path:
    """Return the file of a name inside a folder, without opening it.

    Args:
        root: the folder.
        name: relative to it.
        where: what holds the name, for messages.

    Raises:
        UserError: when it is absolute, has `..` or a NUL, leads out by a link, or is no regular file.
    """
    if escapes(name):
        raise _refused(root, name, where, "leads out of its folder")
    path = root / name
    try:
        real = os.path.realpath(path, strict=True)
        mode = os.stat(real).st_mode  # noqa: PTH116 - realpath gives a text
    except OSError as error:
        raise _refused(root, name, where, f"cannot be read ({error.strerror})") from error
    if not is_inside(os.path.realpath(root), real):
        raise _refused(root, name, where, "is a link that leads out of its folder")
    if not stat.S_ISREG(mode):
        raise _refused(root, name, where, "is a folder, device, pipe or socket")
    return path


def refuse_devices(path: Path) -> None:
    """Raise when a file of a run or model is none: a pipe would be waited for, and a device read, for ever.

    Raises:
        UserError: then; not for a file that is missing.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever opens it says so
    if not stat.S_ISREG(mode):
        raise UserError(
            f"{path}: is a folder, device, pipe or socket", "a file", "take it from a source that you trust"
        )


def is_inside(root: str, real: str) -> bool:
    """Whether a path lies in a folder; both absolute, with their links resolved."""
    return os.path.commonpath((root, real)) == root


def _refused(root: Path, name: str, where: str, why: str) -> UserError:
    return UserError(
        f"{where}: the path {name!r} {why}",
        f"a file inside {root}, relative to it",
        "mend the path, or take the file from a source that you trust",
    )
