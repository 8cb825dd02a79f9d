"""data=image_folder: a folder a class; and data=auto, which recognizes the format."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.files import is_inside
from classifier_training.core.register import register
from classifier_training.core.storage.lance_rows import set_place
from classifier_training.core.storage.places import path_of
from classifier_training.core.types import SPLITS, TEST, TRAIN
from classifier_training.data.formats.jsonl import JSONL, annotation_files, looks_annotated, read_jsonl
from classifier_training.data.formats.lance import LanceSet, VersionedSource
from classifier_training.data.formats.listing import LIST_ENDINGS, FileList, looks_listed
from classifier_training.data.formats.source import FolderSource
from classifier_training.data.formats.table import TABLE_ENDINGS, Table, looks_tabled, refuse_images_inside, tables_of
from classifier_training.data.formats.webdataset import WebDataset, find_shards, looks_sharded
from classifier_training.data.index import NoSamplesError, SampleIndex, is_image, split_of
from classifier_training.data.samples import SamplesBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from classifier_training.data.formats.columns import Layout
    from classifier_training.data.formats.listing import NamedFileSource
    from classifier_training.data.walk import Walker

log = logging.getLogger(__name__)


@register(group="data", name="image_folder")
@dataclass(frozen=True, kw_only=True)
class ImageFolder(FolderSource):
    """Images in root/CLASS/… or root/{train,val,test}/CLASS/…."""

    def read_one(self, walker: Walker) -> SampleIndex:
        """List the images; see the base class."""
        return read_image_folder(walker)


def read_image_folder(walker: Walker) -> SampleIndex:
    """List the images of a folder of class folders; a folder called train makes the level above a split.

    A folder that is alone in the root, or in a split, and holds folders of images, is one around the data.

    Raises:
        UserError: when there is no class folder or no image, or a folder may be a class or a split.
    """
    root, base = walker.root, _unwrapped(walker, walker.root, is_split=False)
    if base != root:
        log.info("%s: the classes or splits are the folders in %s", root, base.relative_to(root))
    inside = walker.folders(base)
    splits = {path: split for path in inside if (split := split_of(path.name))} or _named_splits(walker, inside)
    if TRAIN in splits.values():
        _check_siblings(walker, [path for path in inside if path not in splits], splits)
        ordered = sorted(splits.items(), key=lambda item: SPLITS.index(item[1]))
        splits = {_unwrapped(walker, path, is_split=True): split for path, split in ordered}
    else:
        for path in splits:
            _check_split_without_train(walker, path)
        splits = {base: ""}
    builder = SamplesBuilder()
    empty: list[str] = []
    begin = len(str(root).rstrip("/")) + 1
    for folder, split in splits.items():
        for class_folder in walker.folders(folder):
            label = class_folder.name
            before = len(builder)
            builder.extend((path[begin:], label, split, "") for path in walker.files(class_folder) if is_image(path))
            holds_outputs = any(is_inside(str(class_folder), folder) for folder in walker.outputs)
            if len(builder) == before and not holds_outputs:
                empty.append(class_folder.relative_to(root).as_posix())
    if not len(builder):
        raise NoSamplesError(
            f"{root}: no image in any class folder",
            "root/CLASS/image.jpg or root/train/CLASS/image.jpg",
            "check data.root; a folder of images without class folders has no labels",
        )
    if base in splits:
        _tell_of_levels(walker, base)
    # A test folder without class folders is one whose labels nobody has told.
    blind = [folder for folder, split in splits.items() if split == TEST and not _has_classes(walker, folder)]
    for folder in dict.fromkeys([root, base, *splits]):
        if folder not in blind:
            _report_loose(walker, folder)
    unlabelled = [f"{folder}/{name}"[begin:] for folder in blind for name in _loose_images(walker, folder)]
    return SampleIndex(root, builder.samples(), tuple(empty), tuple(unlabelled))


def _unwrapped(walker: Walker, folder: Path, *, is_split: bool) -> Path:
    """Return the folder that holds the class folders: an only folder that holds folders of images, and no image.

    Archives often have one around all, or around each split once more: chest_xray/train, seg_train/seg_train. A train
    folder that is alone in the data is a split.
    """
    while not _loose_images(walker, folder):
        filled = [path for path in walker.folders(folder) if _has_image(walker, path)]
        if len(filled) != 1 or _loose_images(walker, filled[0]) or not _has_classes(walker, filled[0]):
            break
        if split_of(filled[0].name) and not is_split:
            break
        (folder,) = filled
    return folder


def _named_splits(walker: Walker, folders: Sequence[Path]) -> dict[Path, str]:
    """Return the splits of folders such as seg_train and seg_test; empty where not all that hold images are named so.

    A class may be called bullet_train, so that all must be, and the one of train must hold class folders.
    """
    splits = {path: _named_split(path.name) for path in folders if _has_image(walker, path)}
    train = [path for path, split in splits.items() if split == TRAIN]
    if len(train) != 1 or len(splits) < 2 or not all(split is not None for split in splits.values()):
        return {}
    if _loose_images(walker, train[0]) or not _has_classes(walker, train[0]):
        return {}
    return {path: split for path, split in splits.items() if split}


PREDICTED = frozenset({"pred", "predict", "prediction", "unlabeled", "unlabelled"})
"""Ends of names of folders with images to predict, which are of no split."""


def _named_split(name: str) -> str | None:
    """Return the split that the first or last part of a name stands for, "" for images to predict, None for a class."""
    parts = re.split(r"[ _-]+", name.casefold())
    if PREDICTED & {parts[0], parts[-1]}:
        return ""
    return split_of(parts[-1]) or split_of(parts[0]) or None


def _check_siblings(walker: Walker, siblings: Sequence[Path], splits: Mapping[Path, str]) -> None:
    """Check the folders beside train/ that are no splits; without classes in train/, it may be a class itself."""
    filled = [path.name for path in siblings if _has_image(walker, path)]
    if not filled:
        return
    train = [path for path, split in splits.items() if split == TRAIN]
    if not any(_has_classes(walker, path) for path in train):
        raise UserError(
            f"{train[0]} is read as a split, and beside it are folders of images: {enumerate_words(filled)}",
            "classes inside train/, or no class called train",
            f"if a table has the labels: data=csv data.root=TABLE; if {train[0].name} is a class, rename it: mv "
            f"{shlex.quote(str(train[0]))} {shlex.quote(f'{train[0]}_')}",
        )
    log.warning("%s: folders beside train that are no splits are left out: %s", walker.root, enumerate_words(filled))


def _check_split_without_train(walker: Walker, path: Path) -> None:
    if _has_classes(walker, path) and not _loose_images(walker, path):
        deeper = _train_below(walker, path.parent)
        raise UserError(
            f"{path} looks like a split, but there is no train folder beside it",
            "root/train/CLASS/image.jpg beside it, or one folder a class",
            f"data.root={shlex.quote(str(deeper))}, which has one" if deeper
            else f"make a train folder, or rename {path.name} if it is a class",
        )  # fmt: skip
    log.warning("%s is read as a class, because there is no train folder beside it", path)


def _tell_of_levels(walker: Walker, root: Path) -> None:
    """Warn where every class folder holds the same folders of images, and no image: these may be the classes."""
    classes = [path for path in walker.folders(root) if _has_image(walker, path)]
    names = [{path.name for path in walker.folders(one) if _has_image(walker, path)} for one in classes]
    if len(classes) > 1 and len(names[0]) > 1 and all(one == names[0] for one in names):
        if any(_loose_images(walker, path) for path in classes):
            return
        log.warning(
            "%s: every class folder (%s) holds the same folders (%s); if those are the classes: data.root=[%s]",
            root, enumerate_words([path.name for path in classes], limit=3), enumerate_words(sorted(names[0]), limit=3),
            ",".join(shlex.quote(str(path)) for path in classes[:3]) + (",…" if len(classes) > 3 else ""),
        )  # fmt: skip


def _train_below(walker: Walker, folder: Path) -> Path | None:
    """Return the folder, at most two levels below, that holds one of train; None where there is none."""
    for child in (inner for path in walker.folders(folder) for inner in (path, *walker.folders(path))):
        if any(split_of(path.name) == TRAIN for path in walker.folders(child)):
            return child
    return None


def _has_image(walker: Walker, folder: Path) -> bool:
    return any(map(is_image, walker.files(folder)))


def _has_classes(walker: Walker, folder: Path) -> bool:
    return any(_has_image(walker, path) for path in walker.folders(folder))


def _report_loose(walker: Walker, folder: Path) -> None:
    loose = _loose_images(walker, folder)
    if loose:
        log.warning("%s: %s in no class folder left out; the first: %s", folder, plural(len(loose), "image"), loose[0])


def _loose_images(walker: Walker, folder: Path) -> list[str]:
    return [name for name in walker.loose_files(folder) if is_image(name)]


@register(group="data", name="auto")
@dataclass(frozen=True, kw_only=True)
class AutoData(VersionedSource):
    """Image folder, JSONL, CSV, Parquet, a list of files, WebDataset or Lance set, whichever root is or holds."""

    def _read_root(self, root: str | None) -> SampleIndex:
        if root is not None and set_place(root):
            return LanceSet(**vars(self)).read_one_root(root)
        if self.version is not None:
            raise UserError(
                f"data.version={self.version} has no effect: {root} is no Lance set",
                "a set that ends in .lance",
                "leave it out",
            )
        file = None if root is None else path_of(root)
        if file is not None and file.is_file():
            forms: tuple[type[NamedFileSource], ...] = (JSONL, Table, FileList)
            for form in forms:
                if file.suffix.lower() in form.endings:
                    return self._as(form, file, None)
            if find_shards(file):
                return self._as(WebDataset, None, file)
        return super()._read_root(root)

    def read_one(self, walker: Walker) -> SampleIndex:
        """List the samples; see the base class."""
        annotations = annotation_files(walker)
        if any(map(looks_annotated, annotations)):
            return read_jsonl(walker)
        table = self._only(walker, TABLE_ENDINGS, looks_tabled)
        if table:
            return self._as(Table, table, walker.root)
        if self._has_table_of_names(walker):
            return self._as(Table, None, walker.root)
        if not walker.folders(walker.root) and looks_sharded(walker.root):
            return self._as(WebDataset, None, walker.root)
        with contextlib.suppress(UserError) if annotations else contextlib.nullcontext():
            try:
                index = read_image_folder(walker)
            except UserError:
                listed = self._only(walker, LIST_ENDINGS, looks_listed)
                if listed is not None:
                    return self._as(FileList, listed, walker.root)
                if any(Table().describes(file, walker) for file in tables_of(walker)):
                    return self._as(Table, None, walker.root)
                packed = next((path for path in walker.files(walker.root) if path.endswith(".parquet")), None)
                if packed is not None:
                    refuse_images_inside(path_of(packed), walker.root)
                raise
            if annotations:
                log.warning(
                    "%s has no row with an image; it is ignored, and the folders are the classes", annotations[0]
                )
            return index
        return read_jsonl(walker)

    def _only(self, walker: Walker, endings: tuple[str, ...], looks_right: Callable[[Path], bool]) -> Path | None:
        """The only file of its kind directly in the root; None where there is none, or several."""
        names = [name for name in walker.loose_files(walker.root) if Path(name).suffix.lower() in endings]
        found = [walker.root / name for name in names if looks_right(walker.root / name)]
        return found[0] if len(found) == 1 else None

    def _has_table_of_names(self, walker: Walker) -> bool:
        """Whether a table has labels for files that lie together in a folder, which then is no class.

        Raises:
            ManyLabelsError: where it is not clear which column has them.
        """

        def describes(file: Path) -> bool:
            filled = [path for path in walker.folders(file.parent) if _has_image(walker, path)]

            def has_no_classes(layout: Layout) -> bool:
                return layout.is_of_names or (
                    len(filled) < 2 and not any(_has_classes(walker, path) for path in filled)
                )

            layout = Table().describes(file, walker, refuses=has_no_classes)
            return layout is not None and has_no_classes(layout) and layout.has_labels

        return any(map(describes, tables_of(walker)))

    def _as(self, form: type[FolderSource], file: Path | None, root: Path | None) -> SampleIndex:
        named: dict[str, Any] = {"root": None if root is None else str(root)}
        if file is not None:
            log.info("%s lists the images.", file)
            named["file"] = str(file)
        shared = {item.name: getattr(self, item.name) for item in dataclasses.fields(FolderSource)}
        return form(**{**shared, **named}).read()
