"""A folder a class, with or without a split above them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.data.index import (
    SPLIT_FOLDERS,
    Sample,
    SampleIndex,
    is_image,
    resolve_root,
    walk_files,
)
from classifier_training.data.source import FolderSource

if TYPE_CHECKING:
    from pathlib import Path


@register(group="data", name="image_folder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(FolderSource):
    """Images in root/CLASS/… or root/{train,val,test}/CLASS/…."""

    def read(self) -> SampleIndex:
        """List the images; see the base class."""
        return read_image_folder(resolve_root(self.root))


def read_image_folder(root: Path) -> SampleIndex:
    """List the images of a folder of class folders; a folder called train makes the level above a split.

    Raises:
        UserError: when there is no class folder or no image.
    """
    splits = {name: root / name for name in SPLIT_FOLDERS if (root / name).is_dir()}
    folders = {root: ""} if "train" not in splits else {path: SPLIT_FOLDERS[name] for name, path in splits.items()}
    samples: list[Sample] = []
    empty: list[str] = []
    for folder, split in folders.items():
        for class_folder in sorted(path for path in folder.iterdir() if _is_class_folder(path)):
            found = [path for path in walk_files(class_folder) if is_image(path)]
            if not found:
                empty.append(class_folder.relative_to(root).as_posix())
            label = class_folder.name
            samples += [Sample(path.relative_to(root).as_posix(), label, split) for path in found]
    if not samples:
        raise UserError(
            f"{root}: no image in any class folder",
            "root/CLASS/image.jpg or root/train/CLASS/image.jpg",
            "check data.root; a folder of loose images has no labels to learn from",
        )
    return SampleIndex(root, tuple(samples), tuple(empty))


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__MACOSX"))
