"""What `source=` may be: an image, a folder, a glob, a list file or a video; each yields items."""

from __future__ import annotations

import glob
import logging
import math
import os
from codecs import BOM_UTF8
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.image_files import image_extensions
from classifier_training.core.preprocess import import_opencv
from classifier_training.core.runtime import setting
from classifier_training.core.storage.places import is_remote, path_of, url_of
from classifier_training.data.accounting import (
    BY_ENDING,
    KINDS,
    VIDEO_EXTENSIONS,
    Count,
    FolderFiles,
    Tally,
    count_files,
    kind_of,
)
from classifier_training.data.index import is_image
from classifier_training.data.remote import open_walker
from classifier_training.data.walk import DataErrors, LinkOutError, UnreadableFolderError, Walker, is_ignored
from classifier_training.inference.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

OUTSIDE = "_"
"""Where names begin of files that a list file names outside its own folder."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to label.

    Args:
        path: of the file, or a name for people.
        name: relative path without `..`, different for every item of a source.
        pixels: of a video's frame, uint8 [H, W, 3], RGB.
        error: why the source has nothing to read here.
    """

    path: str
    name: str
    pixels: NDArray[np.uint8] | None = field(default=None, repr=False)
    error: str | None = None


class Source(Protocol):
    """Where images come from; iterating again gives the same items."""

    def __iter__(self) -> Iterator[Item]: ...

    def count(self) -> int | None:
        """How many items there are; None where that is expensive to find out, or not known yet."""
        ...


def find_source(source: str | Sequence[str], *, every_s: float | None = None, follow_links: bool = False) -> Source:
    """Return the source that a setting names.

    Args:
        source: image, folder, glob, .txt list file or video; or several of them.
        every_s: seconds between the frames of a video.
        follow_links: whether links to folders, and links out of the folder, are followed in a folder or glob.

    Raises:
        UserError: when one does not exist or holds no image, or a setting has no effect on any.
    """
    named = [source] if isinstance(source, str) else list(dict.fromkeys(source))
    if not named:
        raise _nothing("[]", "names nothing")
    found = [_open(name, every_s, follow_links=follow_links) for name in named]
    shown = f"source={enumerate_words(named, limit=3)} {'is' if len(named) == 1 else 'are'} no"
    if every_s is not None and not any(isinstance(one, VideoSource) for one in found):
        raise UserError(
            f"every_s={every_s:g}: {shown} video",
            f"every_s= for a video alone ({', '.join(sorted(VIDEO_EXTENSIONS))})",
            "leave every_s= out",
        )
    if follow_links and not any(
        isinstance(one, (FolderSource, GlobSource)) and not is_remote(one.folder) for one in found
    ):
        raise UserError(
            f"follow_links=true has no effect: {shown} folder and no glob",
            "a folder or a glob, in which links may lie",
            "leave follow_links= out",
        )
    for name, one in zip(named, found, strict=True):
        if not any(True for _ in islice(one, 1)):
            missed = one.files().missed() if isinstance(one, (FolderSource, GlobSource)) else []
            why = one.empty if isinstance(one, (FolderSource, GlobSource, ListSource)) else "is empty"
            raise _nothing(name, why, missed)
    return found[0] if len(found) == 1 else SeveralSources(tuple(found))


def _open(source: str, every_s: float | None, *, follow_links: bool) -> OneSource:
    if is_remote(source):
        return FileSource(url_of(source)) if is_image(source) else FolderSource(url_of(source).rstrip("/"))
    path = os.path.expanduser(source)
    ending = os.path.splitext(path)[1].lower()
    # os.path returns False where pathlib raises: for folders without permission and for invalid names.
    if os.path.isdir(path):
        return FolderSource(path, follow_links)
    if ending in VIDEO_EXTENSIONS and os.path.isfile(path):
        return VideoSource(path, every_s)
    if ending == ".txt" and os.path.isfile(path):
        return ListSource(path)
    if ending in TABLES and os.path.isfile(path):
        raise UserError(
            f"source={source}: a table, which is not read for its images",
            "images, a folder of them, or a .txt list with a path on each line",
            f"{setting('source', os.path.dirname(path) or '.')} predicts the images beside it",
        )
    if os.path.lexists(path):
        return FileSource(path)
    if glob.has_magic(path):
        return GlobSource(path, follow_links)
    raise _nothing(source, "there is no such file or folder")


TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".xlsx")
"""Endings of files that list images with more than their paths."""


class _Skipped(DataErrors):
    """Collects links that lead out of a folder, and folders that cannot be read."""

    def __init__(self) -> None:
        super().__init__("skip")
        self.links: list[str] = []
        self.unreadable: list[UnreadableFolderError] = []

    def handle(self, error: UserError) -> None:
        """Keep the error; see the base class."""
        if isinstance(error, LinkOutError):
            self.links.append(error.came.partition(" is a link ")[0])
        elif isinstance(error, UnreadableFolderError):
            self.unreadable.append(error)
        else:
            raise error


def _log_links(walker: Walker, skipped: _Skipped) -> None:
    walker.report()
    if skipped.links:
        log.warning(
            "%s: %d links that lead out of the folder are not followed (%s=true follows them): %s",
            walker.root, len(skipped.links), walker.setting, enumerate_words(skipped.links, limit=3),
        )  # fmt: skip


def _walker(folder: str, skipped: _Skipped, *, follow_links: bool) -> Walker:
    root = path_of(folder) if is_remote(folder) else Path(os.path.realpath(folder))
    return open_walker(root, follow_links=follow_links, errors=skipped, setting="follow_links", keeps=False)


@dataclass(frozen=True)
class FileSource:
    """One image file."""

    path: str

    def __iter__(self) -> Iterator[Item]:
        yield Item(self.path, os.path.basename(self.path), error=_refusal(self.path))

    @property
    def folder(self) -> str:  # noqa: D102
        return os.path.dirname(self.path)

    def count(self) -> int:  # noqa: D102
        return 1


@dataclass(frozen=True)
class FolderSource:
    """All images below a local or remote folder, hidden ones left out, folder by folder in the order of their names.

    Links are followed by the rule for data; see `data.walk`.
    """

    path: str
    follow_links: bool = False
    empty = "no image in this folder"

    @cached_property
    def _listing(self) -> Listing:
        return Listing(self._walk)

    def __iter__(self) -> Iterator[Item]:
        folder = self.path if is_remote(self.path) else str(Path(self.path))
        for name, error in self._listing:
            yield Item(f"{folder}/{name}" if name else folder, name or ".", error=error)

    @property
    def folder(self) -> str:  # noqa: D102
        return self.path

    def count(self) -> int | None:  # noqa: D102
        return self._listing.count()

    def files(self) -> FolderFiles:
        """Count every file below the folder: images, which are read, and the others by kind and ending."""
        return self._listing.files()

    def _walk(self, add: Callable[[str, str | None], None]) -> FolderFiles:
        skipped = _Skipped()
        walker = _walker(self.path, skipped, follow_links=self.follow_links)
        begin = len(str(walker.root).rstrip("/")) + 1

        def add_unreadable() -> None:
            while skipped.unreadable:
                error = skipped.unreadable.pop(0)
                add(error.folder[begin:], f"the folder cannot be read ({error.reason})")

        def classify(path: str) -> str:
            kind = _kind(path)
            if skipped.unreadable:
                add_unreadable()
            if kind == "read":
                add(path, None)
            return kind

        files = count_files(walker.root, classify, walker=walker, setting="follow_links")
        add_unreadable()
        _log_links(walker, skipped)
        return files


@dataclass(frozen=True)
class GlobSource:
    """The images among the matches of a pattern, `**` for any depth, in the order of their paths.

    Links below the part without a wildcard are followed by the rule for data; see `data.walk`.
    """

    pattern: str
    follow_links: bool = False
    empty = "no image matches"

    @cached_property
    def _listing(self) -> Listing:
        return Listing(self._walk)

    def __iter__(self) -> Iterator[Item]:
        folder = self.folder
        for path, _ in self._listing:
            yield Item(path, os.path.relpath(path, folder))

    def count(self) -> int | None:  # noqa: D102
        return self._listing.count()

    def files(self) -> FolderFiles:
        """Count the files that match: images, which are read, and the others by kind and ending."""
        return self._listing.files()

    def _walk(self, add: Callable[[str, str | None], None]) -> FolderFiles:
        skipped, folder, tally, num_read = _Skipped(), self.folder, Tally(), 0
        walker = _walker(folder, skipped, follow_links=self.follow_links)
        # Only paths are held, for their order; a glob gives them as the file system does.
        for path in sorted(glob.iglob(self.pattern, recursive=True)):
            if os.path.isdir(path):
                continue
            name = os.path.relpath(path, folder)
            kind = _kind(name)
            num_read += kind == "read"
            if kind != "read":
                tally.add(kind, name)
            if is_image(path) and walker.reaches(path, folder):
                add(path, None)
        _log_links(walker, skipped)
        return FolderFiles(Path(os.path.realpath(folder)), num_read, tally.counts(), "follow_links")

    @property
    def folder(self) -> str:  # noqa: D102
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
                        path = os.path.join(folder, name)
                        yield Item(path, self._name(folder, name), error=_refusal(path))
        except OSError as error:
            raise _nothing(self.path, f"the list cannot be read ({error.strerror})") from error

    @property
    def folder(self) -> str:  # noqa: D102
        return os.path.dirname(self.path)

    def count(self) -> int:  # noqa: D102
        with open(self.path, "rb") as lines:
            return sum(1 for line in lines if line.removeprefix(BOM_UTF8).strip())

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
            last, number = "", 0
            for seconds, pixels in read_frames(self.path, every_s=self.every_s):
                mark = f"#t={seconds:.2f}"
                # Fast videos have several frames in a hundredth of a second.
                last, number = mark, number + 1 if mark == last else 1
                mark += f"-{number}" if number > 1 else ""
                yield Item(f"{self.path}{mark}", f"{name}{mark}", pixels)
        except UnreadableVideoError as error:
            yield Item(self.path, name, error=error.reason)

    @property
    def folder(self) -> str:  # noqa: D102
        return os.path.dirname(self.path)

    def count(self) -> None:  # noqa: D102
        return None


OneSource = FileSource | FolderSource | GlobSource | ListSource | VideoSource


@dataclass(frozen=True)
class SeveralSources:
    """The images of several sources, one source after the other; one that two of them name comes once."""

    sources: tuple[OneSource, ...]

    def __iter__(self) -> Iterator[Item]:
        folders = [os.path.abspath(one.folder) for one in self.sources]
        common = os.path.commonpath(folders)
        given: set[str] = set()
        for one, folder in zip(self.sources, folders, strict=True):
            for item in one:
                # Names within a source may be those of another; names below what all lie in differ.
                name = os.path.normpath(os.path.join(os.path.relpath(folder, common), item.name))
                if name not in given:
                    given.add(name)
                    yield replace(item, name=name)

    def count(self) -> int | None:  # noqa: D102
        return None if any(one.count() is None for one in self.sources) else self._number

    @cached_property
    def _number(self) -> int:
        return sum(1 for _ in self)


def _refusal(path: str) -> str | None:
    """Return why a file that is named by itself is not read; None where its content decides."""
    kind = BY_ENDING.get(os.path.splitext(path)[1].lower())
    # Pillow would read the small preview in a RAW photo; the decoder itself says what a HEIC photo needs.
    if kind in (None, "heif"):
        return None
    files = FolderFiles(Path(os.path.dirname(path) or "."), 0, (Count(kind, "", 1, os.path.basename(path)),))
    _, remedy = files.describe(kind)
    return f"is {'an' if KINDS[kind].one[0] in 'aeiou' else 'a'} {KINDS[kind].one}, which is not read: {remedy}"


def _kind(path: str) -> str:
    if any(map(is_ignored, path.split("/"))):
        return "hidden"
    return "read" if is_image(path) else kind_of(path)


def _nothing(source: str, why: str, missed: Sequence[tuple[str, str]] = ()) -> UserError:
    words, remedy = next(
        iter(missed), ("", "source=/path/to/image.jpg   (quotes around a glob: 'source=/path/**/*.jpg')")
    )
    return UserError(
        f"source={source}: {why}{f'; not read: {words}' if words else ''}",
        f"an image ({', '.join(sorted(image_extensions()))}), a folder, a glob, a .txt list or a video",
        remedy,
    )


class UnreadableVideoError(UserError):
    """A file that OpenCV cannot read as a video; `reason` says so in a few words."""

    def __init__(self, path: str) -> None:
        self.reason = "cannot be read as a video"
        super().__init__(
            f"{path}: {self.reason}",
            f"a video that OpenCV reads ({', '.join(sorted(VIDEO_EXTENSIONS))})",
            "repair the file, or write it anew in another format",
        )


def read_frames(path: str, *, every_s: float | None = None) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the time in seconds and the pixels, uint8 [H, W, 3], RGB, of a video's frames in their order.

    Args:
        path: video file.
        every_s: seconds from one frame to the next that is taken; every frame when left out.

    Raises:
        UserError: when OpenCV is not installed.
        UnreadableVideoError: when it cannot read the file.
    """
    cv2 = import_opencv("a video as source")
    capture = cv2.VideoCapture(path)
    try:
        if not capture.isOpened():
            raise UnreadableVideoError(path)
        rate, stated = capture.get(cv2.CAP_PROP_FPS) or 1.0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted, number = 0.0, 0
        # grab() steps on; only frames that are wanted are paid for in full.
        while capture.grab():
            # Files of a changing frame rate carry the times of their frames; some others carry none at all.
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / rate
            number += 1
            if every_s is not None and seconds < wanted - 1e-6:
                continue
            read, frame = capture.retrieve()
            if read:
                yield seconds, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            if every_s is not None:
                # Times that no frame has, as after a gap, are left out.
                wanted += every_s * (math.floor(max(seconds - wanted, 0.0) / every_s) + 1)
        if number < stated:
            log.warning("%s: %d frames could be read, of %d that its header speaks of", path, number, stated)
    finally:
        capture.release()
