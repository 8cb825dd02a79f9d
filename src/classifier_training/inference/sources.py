"""What `source=` may stand for: an image, a folder, a glob, a list file or a video; one generator of items for all."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from classifier_training.core.errors import UserError
from classifier_training.core.images import EXTENSIONS as IMAGE_EXTENSIONS
from classifier_training.data import video
from classifier_training.data.index import is_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

OUTSIDE = "_"
"""Where names begin of files that a list file names outside its own folder."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to label.

    Args:
        path: for people, and to open the file by.
        name: relative path without `..`, different for every item of a source.
        pixels: of a video's frame, uint8 [H, W, 3], RGB.
        error: why the source already knows that there is nothing to read.
    """

    path: str
    name: str
    pixels: NDArray[np.uint8] | None = field(default=None, repr=False)
    error: str | None = None


class Source(Protocol):
    """Where images come from; going through it again gives the same items."""

    def __iter__(self) -> Iterator[Item]: ...

    def count(self) -> int | None:
        """How many items there are, where that is cheap to know."""
        ...


def find_source(source: str, *, every_s: float | None = None) -> Source:
    """Return what a word stands for.

    Args:
        source: image, folder, glob, .txt list file or video.
        every_s: seconds between the frames of a video.

    Raises:
        UserError: when it stands for nothing, holds no image, or `every_s` is given for what is no video.
    """
    path = os.path.expanduser(source)
    ending = os.path.splitext(path)[1].lower()
    found: Source
    # os.path answers no where pathlib raises: for folders that may not be entered and names that no file can have.
    if os.path.isdir(path):
        found = FolderSource(path)
    elif ending in video.EXTENSIONS and os.path.isfile(path):
        found = VideoSource(path, every_s)
    elif ending == ".txt" and os.path.isfile(path):
        found = ListSource(path)
    elif os.path.lexists(path):
        found = FileSource(path)
    elif glob.has_magic(path):
        found = GlobSource(path)
    else:
        raise _nothing(source, "there is no such file or folder")
    if every_s is not None and not isinstance(found, VideoSource):
        raise UserError(
            f"every_s={every_s:g}: source={source} is no video",
            f"every_s= for a video alone ({', '.join(sorted(video.EXTENSIONS))})",
            "leave every_s= out",
        )
    if not any(True for _ in islice(found, 1)):
        raise _nothing(source, found.empty if isinstance(found, (FolderSource, GlobSource, ListSource)) else "is empty")
    return found


@dataclass(frozen=True)
class FileSource:
    """One image file."""

    path: str

    def __iter__(self) -> Iterator[Item]:
        yield Item(self.path, os.path.basename(self.path))

    def count(self) -> int:  # noqa: D102
        return 1


@dataclass(frozen=True)
class FolderSource:
    """All images below a folder, hidden ones left out, folder by folder in the order of their names."""

    path: str
    empty = "no image in this folder"

    def __iter__(self) -> Iterator[Item]:
        refused: list[OSError] = []
        for directory, folders, files in os.walk(self.path, onerror=refused.append):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            for name in sorted(files):
                if not name.startswith(".") and is_image(Path(name)):
                    yield self._item(os.path.join(directory, name))
            yield from self._refused(refused)
        yield from self._refused(refused)

    def count(self) -> int:  # noqa: D102
        return sum(1 for _ in self)

    def _item(self, path: str, error: str | None = None) -> Item:
        return Item(path, os.path.relpath(path, self.path), error=error)

    def _refused(self, errors: list[OSError]) -> Iterator[Item]:
        while errors:
            error = errors.pop()
            yield self._item(str(error.filename), f"the folder cannot be read ({error.strerror})")


@dataclass(frozen=True)
class GlobSource:
    """The images among the matches of a pattern, `**` for any depth, in the order of their paths."""

    pattern: str
    empty = "no image matches"

    def __iter__(self) -> Iterator[Item]:
        # Only paths are held, for their order; a glob gives them as the file system does.
        for path in sorted(glob.iglob(self.pattern, recursive=True)):
            if is_image(Path(path)) and not os.path.isdir(path):
                yield Item(path, os.path.relpath(path, self._folder))

    def count(self) -> int:  # noqa: D102
        return sum(1 for _ in self)

    @property
    def _folder(self) -> str:
        parts = Path(self.pattern).parts
        magic = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        return str(Path(*parts[:magic]))


@dataclass(frozen=True)
class ListSource:
    """The files that the lines of a text file name, absolute or relative to its folder; empty lines mean nothing."""

    path: str
    empty = "no line names a file"

    def __iter__(self) -> Iterator[Item]:
        folder = os.path.dirname(self.path)
        try:
            with open(self.path, encoding="utf-8-sig", errors="surrogateescape") as lines:
                for line in lines:
                    if name := line.strip():
                        yield Item(os.path.join(folder, name), self._name(folder, name))
        except OSError as error:
            raise _nothing(self.path, f"the list cannot be read ({error.strerror})") from error

    def count(self) -> int:  # noqa: D102
        return sum(1 for _ in self)

    @staticmethod
    def _name(folder: str, line: str) -> str:
        relative = os.path.relpath(os.path.join(folder, line), folder or ".")
        if relative.startswith(".."):
            return os.path.join(OUTSIDE, os.path.abspath(os.path.join(folder, line)).lstrip("/"))
        return relative


@dataclass(frozen=True)
class VideoSource:
    """The frames of a video file."""

    path: str
    every_s: float | None

    def __iter__(self) -> Iterator[Item]:
        name = os.path.basename(self.path)
        try:
            for seconds, pixels in video.read_frames(self.path, every_s=self.every_s):
                mark = f"#t={seconds:.2f}"
                yield Item(f"{self.path}{mark}", f"{name}{mark}", pixels)
        except video.UnreadableVideoError as error:
            yield Item(self.path, name, error=error.reason)

    def count(self) -> None:  # noqa: D102
        return None


def _nothing(source: str, why: str) -> UserError:
    return UserError(
        f"source={source}: {why}",
        f"an image ({', '.join(sorted(IMAGE_EXTENSIONS))}), a folder, a glob, a .txt list or a video",
        "source=/path/to/image.jpg   (quotes around a glob: 'source=/path/**/*.jpg')",
    )
