"""Files of a run or model: paths that stay in their folder, removal, sizes, and whether a run fits on the disk."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.runtime import DETAIL

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)


def escapes(name: str) -> bool:
    """Whether a relative name leads out of its folder, by its text alone; an empty name counts as one."""
    pure = PurePosixPath(name)
    return not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in name


def contained(root: Path, name: str, *, where: str) -> Path:
    """Return the path of a name inside a folder, without opening it.

    Args:
        root: the folder.
        name: relative to it.
        where: file that contains the name, for messages.

    Raises:
        UserError: when it is absolute, contains `..` or NUL, leads out by a link, or is no regular file.
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
    """Raise when a path of a run or model is no regular file; reading a pipe or device might never end.

    Raises:
        UserError: when it is no regular file; not when it is missing.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # opening it will report the error
    if not stat.S_ISREG(mode):
        raise UserError(
            f"{path}: is a folder, device, pipe or socket", "a file", "take it from a source that you trust"
        )


def is_inside(root: str, real: str) -> bool:
    """Whether a path is inside a folder; both absolute, with links resolved."""
    return os.path.commonpath((root, real)) == root


def _refused(root: Path, name: str, where: str, why: str) -> UserError:
    return UserError(
        f"{where}: the path {name!r} {why}",
        f"a file inside {root}, relative to it",
        "correct the path, or take the file from a source that you trust",
    )


WEIGHTS_FACTOR = 15
"""Most disk space of a run, as a multiple of the size of its weights: three whole states while one is being saved, each
with weights, their average and two optimizer moments, twice the best weights, and those after the linear probe. The
exports at the end take less."""

OTHER_BYTES = 30e6
"""Report, plots, golden images and logs; measured: 10 MB."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Disk space that a run needs.

    Args:
        output: its folder, or the folder that it will be in; it need not exist.
        weights_bytes: of its network.
        table_bytes: of its predictions.
        present_bytes: already in the folder; a resumed run overwrites them.
    """

    output: Path
    weights_bytes: float
    table_bytes: float = 0.0
    present_bytes: float = 0.0

    @property
    def needed_bytes(self) -> float:
        """Most bytes that the run adds."""
        return max(WEIGHTS_FACTOR * self.weights_bytes + self.table_bytes + OTHER_BYTES - self.present_bytes, 0.0)

    def reserved_bytes(self, folder: Path) -> float:
        """Bytes that the run needs on a folder's disk; 0 if it is written to another disk."""
        return self.needed_bytes if _existing(folder).stat().st_dev == _existing(self.output).stat().st_dev else 0.0

    def check(self, *, store_bytes: float) -> None:
        """Log free and needed disk space in one line.

        Args:
            store_bytes: that the store of decoded pixels takes on the same disk.

        Raises:
            UserError: when the run does not fit.
        """
        free = shutil.disk_usage(_existing(self.output)).free
        needed = self.needed_bytes + store_bytes
        words = (
            f"the run needs up to {_shown(self.needed_bytes)} for checkpoints, exports and report (weights of "
            f"{_shown(self.weights_bytes)})"
            + (f", and {_shown(store_bytes)} for its store of decoded pixels" if store_bytes else "")
        )
        if needed > free:
            raise UserError(
                f"{self.output}: {_shown(free)} of the disk are free, but {words}",
                "disk space for the whole run",
                "free some space, or choose another disk: output=/some/folder"
                + ("; data.store=off uses no store" if store_bytes else ""),
            )
        log.info("disk: %s free at %s; %s", _shown(free), self.output, words, extra=DETAIL)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_oldest(files: Iterable[Path], *, limit: float, keep: Path | None = None) -> None:
    """Remove the files that were not used for the longest time, by their times, until the others fit.

    Args:
        files: of a cache; one that another process removes meanwhile is no error.
        limit: bytes that may stay.
        keep: a file that stays.
    """
    found = []
    for path in files:
        with suppress(FileNotFoundError):
            facts = path.stat()
            found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        if path != keep:
            path.unlink(missing_ok=True)
            total -= size


def size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; 0 if there is none, or it vanishes meanwhile."""
    total = 0
    walk = (
        ((folder, names) for folder, _, names in os.walk(path)) if path.is_dir() else [(str(path.parent), [path.name])]
    )
    for folder, names in walk:
        for name in names:
            with suppress(FileNotFoundError):
                found = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - of many thousand files
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _shown(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"
