"""Forms of data that one file describes: where it is, and which folder its paths begin from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.settings import PathText, Resume
from classifier_training.data.formats.source import FolderSource
from classifier_training.data.index import resolve_root, split_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from classifier_training.data.index import SampleIndex
    from classifier_training.data.walk import Walker


@dataclass(frozen=True, kw_only=True)
class NamedFileSource(FolderSource):
    """A data set that a file in data.root, or data.root itself, describes.

    Args:
        file: the file.
    """

    file: Annotated[PathText | None, Resume.FIXED] = None

    endings: ClassVar[tuple[str, ...]] = ()

    @property
    def is_named(self) -> bool:
        """Whether the settings say which data this is."""
        return self.root is not None or self.file is not None

    def _read_root(self, root: str | None) -> SampleIndex:
        file, folder = self._find(root)
        walker = self.walker(folder)
        index = self.read_files([file] if file else self.find_files(walker), walker)
        walker.report()
        walker.faults.report(folder)
        return index

    def _find(self, root: str | None) -> tuple[Path | None, Path]:
        """The file, when it is named, and the folder that its paths begin from."""
        if self.file is not None:
            if isinstance(self.root, list):
                raise UserError(
                    f"data.file={self.file} with several folders in data.root",
                    "one folder that the paths in the file begin from",
                    "data.root=[first.csv,second.csv] for a file in each",
                )
            file = _existing(Path(self.file), self.endings)
            return file, file.parent if root is None else resolve_root(root)
        if root is not None and Path(root).is_file():
            file = _existing(Path(root), self.endings)
            return file, file.parent
        return None, resolve_root(root)

    def find_files(self, walker: Walker) -> list[Path]:
        """The files to read where none is named; see `loose_files`."""
        return loose_files(walker, self.endings)

    def read_files(self, files: Sequence[Path], walker: Walker) -> SampleIndex:
        """List what some files describe, whose images lie below the walker's root."""
        raise NotImplementedError


def _existing(file: Path, endings: Sequence[str]) -> Path:
    if not file.is_file():
        raise UserError(
            f"data.file={file}: no such file", f"a file ({', '.join(endings)})", "check the spelling: data.file=…"
        )
    if file.suffix.lower() not in endings:
        raise UserError(
            f"{file}: its name does not say what it is",
            f"a name that ends in {' or '.join(endings)}",
            f"mv {file} {file.with_suffix(endings[0])}",
        )
    return file.resolve()


def loose_files(walker: Walker, endings: Sequence[str]) -> list[Path]:
    """The one file of its kind in a root, or one a split.

    Raises:
        UserError: when there is none, or it is not clear which.
    """
    names = [name for name in walker.loose_files(walker.root) if Path(name).suffix.lower() in endings]
    if len(names) > 1 and not all(split_of(Path(name).stem) for name in names):
        raise UserError(
            f"{walker.root} holds {len(names)} such files: {enumerate_words(names)}",
            "one, or train, val and test",
            f"data.file={walker.root / names[0]}",
        )
    if not names:
        raise UserError(
            f"{walker.root}: no {' or '.join(endings)} file",
            "a file that lists the images",
            "data.file=/my/list" + endings[0],
        )
    return [walker.root / name for name in names]
