"""Lists every file below a folder, in a fixed order and fast: only directories are read, no file is opened.

A link is followed if it leads to a file inside the root. Links to folders, and links that lead out of the root, are
followed with `follow_links`; a link that leads back to a folder above it never is. `DataErrors` raises or collects what
cannot be used.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.files import is_inside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

log = logging.getLogger(__name__)


class DataErrors:
    """Raises or collects the errors of single rows, files and folders of a data set.

    Args:
        on_error: raise raises the first error; skip counts them.
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise") -> None:
        self._on_error = on_error
        self._number = 0
        self._first = ""

    def handle(self, error: UserError) -> None:
        """Raise the error, or count it.

        Raises:
            UserError: the error, unless errors are skipped.
        """
        if self._on_error == "raise":
            raise error
        self._number += 1
        self._first = self._first or error.came
        log.debug("left out: %s", error.came)

    def report(self, where: Path) -> None:
        """Log in one line how much is left out."""
        if self._number:
            log.warning("%s: %d rows or files cannot be used and are left out; the first: %s",
                        where, self._number, self._first)  # fmt: skip


IGNORED = frozenset(
    {
        "Thumbs.db", "desktop.ini", "ehthumbs.db", "Icon\r", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found",
        "System Volume Information",
    }
)  # fmt: skip
"""Files and folders that operating systems and network disks put beside images, such as small copies of them. Names
that begin with a dot are ignored, too."""


OUTPUTS = (frozenset({"config.yaml", "run.lock"}), frozenset({"findings.json", "quarantine.csv", "report.html"}))
"""Files by which the folder of a run, or of a report on data, is known."""


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that an operating system put there."""
    return name.startswith((".", "__MACOSX")) or name in IGNORED


class LinkOutError(UserError):
    """A link that leads out of the folder."""


class UnreadableFolderError(UserError):
    """A folder whose names cannot be read; `folder` and `reason` say which and why."""

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__(
            f"{folder}: {reason}",
            "a data folder that can be read",
            "fix its permissions, choose another data.root, or leave it out: data.on_error=skip",
        )
        self.folder = folder
        self.reason = reason


@dataclass
class Walker:
    """Walks through the folders of one data set.

    Args:
        root: absolute, with its own links resolved.
        follow_links: whether links to folders and out of the root are followed.
        errors: handles folders that cannot be read and links that lead out of the root.
        setting: the user's name of `follow_links`, for messages.
        keeps: whether the content of a folder is cached for the next walk.

    Attributes:
        ignored: hidden files and folders, and those of operating systems, in the folders that were walked through.
        links: those that were not followed.
        outputs: folders of runs and reports below the root, whose plots are no data.
    """

    root: Path
    follow_links: bool = False
    errors: DataErrors = field(default_factory=DataErrors)
    setting: str = "data.follow_links"
    keeps: bool = True
    ignored: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    outputs: dict[str, None] = field(default_factory=dict)
    _folder_links: list[str] = field(default_factory=list)
    _loops: list[str] = field(default_factory=list)
    _scanned: dict[str, tuple[list[tuple[str, bool]], list[str]]] = field(default_factory=dict)
    _entries: dict[str, dict[str, str]] = field(default_factory=dict)
    _reached: dict[str, bool] = field(default_factory=dict)

    def files(self, folder: Path) -> Iterator[str]:
        """Yield the absolute path of each file below a folder, sorted by folder and name."""
        yield from self._walk(str(folder), (os.path.realpath(folder),))

    def folders(self, folder: Path) -> list[Path]:
        """The folders directly inside a folder, sorted by name."""
        return [folder / name for name, _ in self._scan(str(folder))[0]]

    def loose_files(self, folder: Path) -> list[str]:
        """The names of the files directly inside a folder, sorted."""
        return self._scan(str(folder))[1]

    def holds(self, folder: Path, name: str) -> bool:
        """Whether a folder has a file of that name, which may contain slashes; each folder is read once.

        Raises:
            UserError: when the file is reached by a link that leads out of the root.
        """
        parent, _, last = f"{folder}/{name}".rpartition("/")
        if parent not in self._entries:
            self._entries[parent] = self._list(parent)
        link = self._entries[parent].get(last)
        if link:
            raise self._leads_out(link)
        return link is not None

    def reaches(self, path: str, folder: str) -> bool:
        """Whether a path below a folder inside the root is reached without a link that is not followed."""
        parent = os.path.dirname(path)  # noqa: PTH120
        if self.follow_links or path in ("", folder, parent):
            return True
        if path not in self._reached:
            self._reached[path] = self.reaches(parent, folder) and self._may_pass(path)
        return self._reached[path]

    def _may_pass(self, path: str) -> bool:
        if not os.path.islink(path):  # noqa: PTH114
            return True
        if not self._is_inside(os.path.realpath(path)):
            self.errors.handle(self._leads_out(path))
            return False
        if os.path.isdir(path):  # noqa: PTH112
            self._folder_links.append(path)
            return False
        return True

    def report(self) -> None:
        """Log which links were not followed."""
        if self._folder_links:
            links = sorted(set(self._folder_links))
            log.warning(
                "%s: %d links to folders are not followed (%s=true follows them): %s",
                self.root, len(links), self.setting, enumerate_words(links, limit=3),
            )  # fmt: skip
        if self._loops:
            log.warning(
                "%s: links to a folder above them are not followed: %s", self.root, enumerate_words(self._loops)
            )
        if self.outputs:
            log.warning("%s: folders of runs and reports are no data, and are left out: %s",
                        self.root, enumerate_words(sorted(self.outputs), limit=3))  # fmt: skip
        self._folder_links.clear()
        self._loops.clear()

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[str]:
        folders, files = self._scan(folder)
        if not self.keeps:
            self._scanned.pop(folder, None)
        for name in files:
            yield f"{folder}/{name}"
        for name, is_link in folders:
            path = f"{folder}/{name}"
            if not is_link:
                yield from self._walk(path, (*above, path))
                continue
            real = os.path.realpath(path)
            if any(real == os.path.realpath(known) for known in above):
                self._loops.append(path)
                self.links.append(path)
            else:
                yield from self._walk(path, (*above, real))

    def _list(self, folder: str) -> dict[str, str]:
        """Names of a folder's files, each with the link on its path that leads out of the root, or an empty text."""
        if not os.path.isdir(folder):  # noqa: PTH112
            return {}
        out = "" if self.follow_links or self._is_inside(os.path.realpath(folder)) else folder
        with os.scandir(folder) as inside:
            return {entry.name: out or self._link_out(entry) for entry in inside if not _is_folder(entry)}

    def _link_out(self, entry: os.DirEntry[str]) -> str:
        if self.follow_links or not entry.is_symlink() or self._is_inside(os.path.realpath(entry.path)):
            return ""
        return entry.path

    def _scan(self, folder: str) -> tuple[list[tuple[str, bool]], list[str]]:
        """Return the folders inside a folder, each with whether it is a link, and the files."""
        if folder in self._scanned:
            return self._scanned[folder]
        folders: list[tuple[str, bool]] = []
        files: list[str] = []
        try:
            with os.scandir(folder) as inside:
                for entry in inside:
                    name = entry.name
                    if is_ignored(name):
                        self.ignored.append(entry.path)
                    elif entry.is_symlink() and not self._follows(entry):
                        self.links.append(entry.path)
                    elif _is_folder(entry):
                        folders.append((name, entry.is_symlink()))
                    else:
                        files.append(name)
        except OSError as error:
            self.errors.handle(UnreadableFolderError(folder, str(error.strerror)))
        if any(names.issubset(files) for names in OUTPUTS) and folder != str(self.root):
            self.outputs[folder] = None
            folders, files = [], []
        folders.sort()
        files.sort()
        self._scanned[folder] = folders, files
        return folders, files

    def _follows(self, entry: os.DirEntry[str]) -> bool:
        if self._link_out(entry):
            self.errors.handle(self._leads_out(entry.path))
            return False
        if _is_folder(entry) and not self.follow_links:
            self._folder_links.append(entry.path)
            return False
        return True

    def _leads_out(self, link: str) -> LinkOutError:
        return LinkOutError(
            f"{link} is a link that leads out of the data folder {self.root}, to {os.path.realpath(link)}",
            "data inside data.root",
            f"{self.setting}=true to follow it, or remove the link",
        )

    def _is_inside(self, target: str) -> bool:
        return is_inside(str(self.root), target)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself counts as an unreadable file."""
    try:
        return entry.is_dir()
    except OSError:
        return False
