"""`sort_into=`: image files in a folder for each prediction, under names that every file system takes."""

from __future__ import annotations

import logging
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from classifier_training.core.errors import UserError
from classifier_training.core.storage.places import is_remote
from classifier_training.inference.rows import valid_text
from classifier_training.inference.sources import FolderSource, GlobSource, SeveralSources, VideoSource

if TYPE_CHECKING:
    from classifier_training.inference.sources import Item, Source

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


log = logging.getLogger(__name__)

SortBy = Literal["copy", "link"]


class Sorter:
    """Puts each labelled image at FOLDER/LABEL/ and its path within the source, so that no two files collide.

    Labels that are no valid folder names are encoded, see `safe_name`. No file is written over: the image itself, or
    a copy of it, is left as it is, so sorting again changes nothing; beside another file the image has a name with a
    mark.
    Images without a prediction are left out.

    Args:
        folder: target; created when it does not exist.
        by: copy the files, or make symbolic links to them.
        source: where the images come from.

    Raises:
        UserError: when the folder cannot be made, lies inside the source, or the source has no files.
    """

    def __init__(self, folder: str, by: SortBy, source: Source) -> None:
        self.folder = Path(folder).expanduser()
        self._by = by
        for one in source.sources if isinstance(source, SeveralSources) else (source,):
            if isinstance(one, VideoSource):
                raise UserError("sort_into= with a video as source", "image files", "leave sort_into= out")
            place = getattr(one, "folder", "")
            if is_remote(place):
                raise UserError(
                    f"sort_into={folder}: {place} is in a remote store",
                    "image files of this machine",
                    "leave sort_into= out, or name a local copy as the source",
                )
            searched = isinstance(one, FolderSource) or (isinstance(one, GlobSource) and "**" in one.pattern)
            if searched and self.folder.resolve().is_relative_to(Path(place).resolve()):
                raise UserError(
                    f"sort_into={folder}: lies in the source, so sorted images would be found as new ones",
                    "a folder outside of the source",
                    "sort_into=/another/folder",
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(self.folder, error) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise self._refused(self.folder, PermissionError(0, "Permission denied"))

    def place(self, item: Item, label: str | None) -> None:
        """Copy or link one image; nothing without a label.

        Raises:
            UserError: when it cannot be written.
        """
        if label is None:
            return
        within, path = Path(item.name), Path(item.path)
        target = self.folder / safe_name(label) / within.with_name(fit_file_name(within.name))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not self._has(path, target):
                # The place of a file that is not ours may not be taken.
                mark = sha256(os.fsencode(path.absolute())).hexdigest()[:8]
                target = target.with_name(fit_file_name(f"{within.stem}~{mark}{within.suffix}"))
                log.info("%s exists already; the image is named %s", valid_text(within.name), valid_text(target.name))
            # Where copies are wanted, a link gives way to one.
            if not self._has(path, target) or (self._by == "copy" and target.is_symlink()):
                self._put(path, target)
        except FileNotFoundError:
            log.warning("%s no longer exists and is not sorted", valid_text(item.path))
        except OSError as error:
            raise self._refused(target, error) from error

    @staticmethod
    def _has(path: Path, target: Path) -> bool:
        """Whether a target is the image, a link to it or a copy of it; modification times are copied, too."""
        if not target.exists():
            return False
        new, old = path.stat(), target.stat()
        return os.path.samestat(new, old) or (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns)

    def _put(self, path: Path, target: Path) -> None:
        temporary = target.with_name(f".{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            if self._by == "link":
                temporary.symlink_to(path.absolute())
            else:
                shutil.copy2(path, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _refused(path: Path, error: OSError) -> UserError:
        return UserError(
            f"sort_into: {valid_text(os.fspath(path))} cannot be written ({error.strerror})",
            "a folder that may be written to, on a disk with space left",
            "sort_into=/another/folder",
        )
