"""A list of image files, one path a line; the folder that an image lies in is its label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, ClassVar

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.core.settings import PathText, Resume
from classifier_training.data.formats.listed import locate, open_text
from classifier_training.data.formats.named_file import NamedFileSource
from classifier_training.data.index import Sample, SampleIndex, split_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from classifier_training.data.walk import Walker

LIST_ENDINGS = (".txt", ".lst", ".list")


@register(group="data", name="files")
@dataclass(frozen=True, kw_only=True)
class FileList(NamedFileSource):
    """A text file with the path of an image a line; the folder that an image lies in is its label.

    Args:
        file: the list; paths in it are relative to data.root, or to its own folder. Left out, it is the only .txt file
            in data.root; train.txt, val.txt and test.txt are splits.
    """

    file: Annotated[PathText | None, Resume.FIXED] = None

    endings: ClassVar[tuple[str, ...]] = LIST_ENDINGS

    def read_files(self, files: Sequence[Path], walker: Walker) -> SampleIndex:
        """List the files; see the base class."""
        samples: list[Sample] = []
        for file in files:
            split = split_of(file.stem) if len(files) > 1 else ""
            folders = (walker.root, file.parent) if file.parent.is_relative_to(walker.root) else (walker.root,)
            for number, line in enumerate(open_text(file), start=1):
                name = line.rstrip("\r\n")
                if not name.strip():
                    continue
                try:
                    path = locate(name, f"{file}:{number}", folders, walker)
                    samples.append(Sample(path, _label_of(path, f"{file}:{number}"), split))
                except UserError as error:
                    walker.faults.meet(error)
        if not samples:
            raise UserError(f"{files[0]}: no path in it", "one image path a line", f"find . -name '*.jpg' > {files[0]}")
        return SampleIndex(walker.root, tuple(samples))


def _label_of(path: str, where: str) -> str:
    label = PurePosixPath(path).parent.name
    if not label:
        raise UserError(
            f"{where}: {path!r} lies in no folder, so it has no label",
            "CLASS/image.jpg, below data.root",
            "name the folder above as data.root, or use a table with labels: data=csv",
        )
    return label


def looks_listed(file: Path) -> bool:
    """Whether the first line of a text file ends like the name of an image."""
    from classifier_training.data.index import is_image

    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return is_image(next(lines, "").strip())
