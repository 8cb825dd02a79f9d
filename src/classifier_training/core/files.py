"""Files of a run or model: paths that stay in their folder, removal, sizes, and whether a run fits on the disk."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


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


WEIGHTS_FACTOR = 15
"""Most room that a run takes at once, in sizes of its weights: three whole states while one is being saved, each of
weights, their average and two values of the optimizer, the best weights twice, and those after the linear probe. The
exports at the end are fewer."""

OTHER_BYTES = 30e6
"""Report, plots, golden images and logs; measured: 10 MB."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a run is going to write.

    Args:
        output: its folder, or the one that it will lie in; it need not be there.
        weights_bytes: of its network.
        table_bytes: of its predictions.
        present_bytes: that the folder has already; a run that is resumed writes over it.
    """

    output: Path
    weights_bytes: float
    table_bytes: float = 0.0
    present_bytes: float = 0.0

    @property
    def needed_bytes(self) -> float:
        """Most that is added at once."""
        return max(WEIGHTS_FACTOR * self.weights_bytes + self.table_bytes + OTHER_BYTES - self.present_bytes, 0.0)

    def reserved_bytes(self, folder: Path) -> float:
        """Bytes that the run needs of a folder's disk: none where it is written to another one."""
        return self.needed_bytes if _existing(folder).stat().st_dev == _existing(self.output).stat().st_dev else 0.0

    def check(self, *, store_bytes: float) -> None:
        """Say in one line what there is and what is needed.

        Args:
            store_bytes: that a store of pixels will take of the same disk.

        Raises:
            UserError: when the run does not fit.
        """
        free = shutil.disk_usage(_existing(self.output)).free
        needed = self.needed_bytes + store_bytes
        words = (
            f"the run needs up to {_shown(self.needed_bytes)} for checkpoints, exports and report (weights of "
            f"{_shown(self.weights_bytes)})"
            + (f", and {_shown(store_bytes)} for its store of pixels" if store_bytes else "")
        )
        if needed > free:
            raise UserError(
                f"{self.output}: {_shown(free)} of the disk are free, and {words}",
                "room for the whole run",
                "free some space, or choose another disk: output=/some/folder"
                + ("; data.store=off does without the store" if store_bytes else ""),
            )
        log.info("disk: %s are free at %s, and %s", _shown(free), self.output, words)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_bytes(path: Path) -> int:
    """Return how large a file is, or all files of a folder together; 0 where there is none."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _shown(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"
