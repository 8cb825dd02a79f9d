"""Data sets that are described by a file, and data=files: a list of image paths."""

from __future__ import annotations

import codecs
import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, ClassVar

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.files import escapes
from classifier_training.core.register import register
from classifier_training.core.runtime import setting as as_typed
from classifier_training.core.settings import PathText, Resume
from classifier_training.core.storage.places import is_remote, path_of, url_of
from classifier_training.data.formats.source import FolderSource
from classifier_training.data.index import NoSamplesError, SampleIndex, is_image, resolve_root, split_of
from classifier_training.data.samples import SamplesBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from classifier_training.data.walk import Walker


def open_text(file: Path, *, encoding: str = "utf-8", setting: str = "") -> Iterator[str]:
    """Yield the lines of a text file, with their line endings.

    Args:
        file: the file.
        encoding: of the text; a byte order mark is removed, and that of UTF-16 takes its place.
        setting: the user's setting of the encoding, if there is one.

    Raises:
        UserError: when it cannot be read, or a line is not in that encoding.
    """
    try:
        with file.open("rb") as lines:
            if lines.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                yield from io.TextIOWrapper(lines, "utf-16", errors="replace", newline="")
                return
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
        raise UserError(f"{where}: split '{text}'", "train, val or test, or nothing", "correct the row")
    return split_of(text)


def image_folders(file: Path, walker: Walker) -> list[Path]:
    """Folders that the paths in a file may be relative to: the root, and the file's own folder inside it."""
    return [walker.root, file.parent] if file.parent.is_relative_to(walker.root) else [walker.root]


def locate(name: str, where: str, folders: Sequence[Path], walker: Walker) -> str:
    """Return the path of an image in the first of the folders that has it; never outside the root.

    Args:
        name: path in the file, relative to one of the folders, or absolute and inside the root.
        where: file and line, for messages.
        folders: to search in this order.
        walker: of the root.

    Returns:
        The path relative to the root.

    Raises:
        UserError: when there is no such file, or it is not inside the root.
    """
    root = str(walker.root).rstrip("/") + "/"
    pure = PurePosixPath(url_of(name).removeprefix(root) if is_remote(name) else name)
    leads_out = escapes(text := str(pure).removeprefix(root))
    if leads_out:
        joined = [] if "\0" in text else [os.path.normpath(os.path.join(base, text)) for base in folders]  # noqa: PTH118
        candidates = [(walker.root, path.removeprefix(root)) for path in joined if path.startswith(root)]
    elif pure.is_absolute():
        candidates = [(walker.root, os.path.relpath(pure, root))]
    else:
        candidates = [(base, str(pure)) for base in folders]
    for base, path in candidates:
        if walker.holds(base, path):
            return f"{base}/{path}"[len(root) :]
    if leads_out:
        raise UserError(
            f"{where}: the image path {name!r} leads out of the data folder {walker.root}",
            f"a path relative to {folders[0]}, inside data.root",
            "correct the path in that row, or name the folder that holds all images, the format and the file: "
            "data.root=FOLDER data=csv data.file=FILE",
        )
    raise UserError(
        f"{where}: the image {name!r} does not exist",
        f"a file below {folders[0]}",
        "correct the path in that row, or remove the row",
    )


@dataclass(frozen=True, kw_only=True)
class NamedFileSource(FolderSource):
    """A data set that is described by a file in data.root, or by data.root itself.

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
        return self.account(walker, lambda: self.read_files([file] if file else self.find_files(walker), walker))

    def _find(self, root: str | None) -> tuple[Path | None, Path]:
        """The file, if the settings name it, and the folder that its paths are relative to."""
        if self.file is not None:
            if isinstance(self.root, list):
                raise UserError(
                    f"data.file={self.file} with several folders in data.root",
                    "one folder that the paths in the file are relative to",
                    "data.root=[first.csv,second.csv] for a file in each",
                )
            file = _existing(path_of(self.file), self.endings)
            return file, file.parent if root is None else resolve_root(root)
        if root is not None and path_of(root).is_file():
            file = _existing(path_of(root), self.endings)
            return file, file.parent
        return None, resolve_root(root)

    def find_files(self, walker: Walker) -> list[Path]:
        """The files to read if the settings name none; see `loose_files`."""
        return loose_files(walker, self.endings)

    def read_files(self, files: Sequence[Path], walker: Walker) -> SampleIndex:
        """List the samples that files describe; the images are below the walker's root."""
        raise NotImplementedError


def _existing(file: Path, endings: Sequence[str]) -> Path:
    if not file.is_file():
        raise UserError(
            f"data.file={file}: no such file", f"a file ({', '.join(endings)})", "check the spelling: data.file=…"
        )
    if file.suffix.lower() not in endings:
        raise UserError(
            f"{file}: its format cannot be told from its name",
            f"a name that ends in {' or '.join(endings)}",
            f"mv {file} {file.with_suffix(endings[0])}",
        )
    return file.resolve()


def loose_files(
    walker: Walker, endings: Sequence[str], *, is_other: Callable[[Path], bool] = lambda _: False
) -> list[Path]:
    """Return the only file of its kind in a root, or one file per split.

    Args:
        walker: of the data folder.
        endings: of the kind.
        is_other: tells a file that counts only where there is no other one.

    Raises:
        UserError: when there is none, or several that are not splits.
    """
    names = [name for name in walker.loose_files(walker.root) if Path(name).suffix.lower() in endings]
    names = [name for name in names if not is_other(Path(name))] or names
    if len(names) > 1 and not all(split_of(Path(name).stem) for name in names):
        raise UserError(
            f"{walker.root} holds {len(names)} files of this kind: {enumerate_words(names)}",
            "one, or one each for train, val and test",
            as_typed("data.root", walker.root / min(names, key=lambda name: not name.casefold().startswith("train"))),
        )
    if not names:
        raise UserError(
            f"{walker.root}: no {' or '.join(endings)} file",
            "a file that lists the images",
            "data.file=/my/list" + endings[0],
        )
    return [walker.root / name for name in names]


LIST_ENDINGS = (".txt", ".lst", ".list")


@register(group="data", name="files")
@dataclass(frozen=True, kw_only=True)
class FileList(NamedFileSource):
    """A text file with one image path a line; the folder of an image is its label.

    Args:
        file: the list; paths in it are relative to data.root, or to its own folder. Left out, it is the only .txt file
            in data.root; train.txt, val.txt and test.txt are splits.
    """

    file: Annotated[PathText | None, Resume.FIXED] = None

    endings: ClassVar[tuple[str, ...]] = LIST_ENDINGS

    def read_files(self, files: Sequence[Path], walker: Walker) -> SampleIndex:
        """List the files; see the base class."""
        builder = SamplesBuilder()
        for file in files:
            split = split_of(file.stem) if len(files) > 1 else ""
            folders = image_folders(file, walker)
            for number, line in enumerate(open_text(file), start=1):
                name = line.rstrip("\r\n")
                if not name.strip():
                    continue
                try:
                    path = locate(name, f"{file}:{number}", folders, walker)
                    builder.add(path, _label_of(path, f"{file}:{number}"), split)
                except UserError as error:
                    walker.errors.handle(error)
        if not len(builder):
            raise NoSamplesError(
                f"{files[0]}: no path in it", "one image path a line", f"find . -name '*.jpg' > {files[0]}"
            )
        return SampleIndex(walker.root, builder.samples(), label_files=tuple(files))


def _label_of(path: str, where: str) -> str:
    label = PurePosixPath(path).parent.name
    if not label:
        raise UserError(
            f"{where}: {path!r} is in no folder, so it has no label",
            "CLASS/image.jpg, below data.root",
            "name the folder above as data.root, or use a table with labels: data=csv",
        )
    return label


def looks_listed(file: Path) -> bool:
    """Whether the first line of a text file looks like an image path."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return is_image(next(lines, "").strip())
