"""Data sets of torchvision and the Hugging Face hub, written to the cache once as image files."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from classifier_training.core.errors import UserError, enumerate_words, first_line, nearest, plural, require_extra
from classifier_training.core.register import register
from classifier_training.core.runtime import cache_dir, setting
from classifier_training.core.settings import PathText, Resume, Trait, TypedPath
from classifier_training.core.types import TEST, TRAIN
from classifier_training.data.accounting import FolderFiles, count_files, kind_of
from classifier_training.data.cache_folder import MARKER, Content, cached_folder, write_rows
from classifier_training.data.formats.jsonl import read_jsonl
from classifier_training.data.formats.source import DataSource
from classifier_training.data.index import is_image, split_of
from classifier_training.data.walk import Walker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from classifier_training.data.index import SampleIndex

log = logging.getLogger(__name__)

TRAIN_OR_NOT: Mapping[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
TWO: Mapping[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: Mapping[str, dict[str, Any]] = {**TWO, "valid": {"split": "val"}}
VALID: Mapping[str, dict[str, Any]] = {**TWO, "valid": {"split": "valid"}}
WHOLE: Mapping[str, dict[str, Any]] = {"": {}}

SETS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "Caltech101": WHOLE,
    "Caltech256": WHOLE,
    "CIFAR10": TRAIN_OR_NOT,
    "CIFAR100": TRAIN_OR_NOT,
    "Country211": VALID,
    "DTD": THREE,
    "EuroSAT": WHOLE,
    "FashionMNIST": TRAIN_OR_NOT,
    "FGVCAircraft": THREE,
    "Flowers102": THREE,
    "Food101": TWO,
    "GTSRB": TWO,
    "Imagenette": {"train": {"split": "train"}, "valid": {"split": "val"}},
    "KMNIST": TRAIN_OR_NOT,
    "MNIST": TRAIN_OR_NOT,
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "PCAM": THREE,
    "RenderedSST2": THREE,
    "STL10": TWO,
    "StanfordCars": TWO,
    "SUN397": WHOLE,
    "SVHN": TWO,
    "USPS": TRAIN_OR_NOT,
}
"""Arguments of each data set's class, by split."""


def known_set(name: str) -> str:
    """Return the name as torchvision spells it.

    Raises:
        ValueError: when there is no such data set, naming those that exist.
    """
    found = {known.casefold(): known for known in SETS}.get(name.casefold())
    if found is None:
        close = nearest(name, SETS)
        raise ValueError(
            f"no such data set; {'similar names' if close else 'known names'}: {enumerate_words(close or SETS)}"
        )
    return found


@register(group="data", name="torchvision")
@dataclass(frozen=True, kw_only=True)
class TorchvisionData(DataSource):
    """A data set of torchvision by its name, such as CIFAR10; downloaded the first time.

    Args:
        name: as torchvision spells it: CIFAR10, MNIST, Food101, EuroSAT, ….
        root: folder of torchvision's files; a folder in the cache when left out.
    """

    name: Annotated[str, AfterValidator(known_set), Resume.FIXED]
    root: Annotated[PathText | None, Resume.DIVERGES, Trait.MACHINE] = None

    def read(self) -> SampleIndex:
        """List the images, writing them to the cache folder the first time."""
        root = Path(self.root) if self.root else cache_dir() / "torchvision"
        key = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        folder = cached_folder(f"torchvision-{self.name}-{key}", lambda place: self._write(place, root))
        return read_jsonl(Walker(folder))

    def _write(self, folder: Path, root: Path) -> dict[str, Any]:
        counts = {split: write_rows(folder, split, self._rows(root, take)) for split, take in SETS[self.name].items()}
        return {"name": self.name, "root": str(root), "num_images": counts}

    def _rows(self, root: Path, take: Mapping[str, Any]) -> Iterator[tuple[Content, str]]:
        found = self._open(root, take)
        names = getattr(found, "classes", None) or getattr(found, "categories", None)
        for place in range(len(found)):
            image, target = found[place]
            label = names[target] if names and isinstance(target, int) else str(int(target))
            yield image, label if isinstance(label, str) else str(label[0])

    def _open(self, root: Path, take: Mapping[str, Any]) -> Any:
        from torchvision import datasets

        make = getattr(datasets, self.name)
        # Data sets of files then return the paths, so that a JPEG is copied and not encoded again.
        take = {**take, **({"loader": Path} if "loader" in inspect.signature(make).parameters else {})}
        try:
            return make(root, **take, download=False)
        except (RuntimeError, FileNotFoundError):
            log.info("%s is not in %s; downloading it.", self.name, root)
        root.mkdir(parents=True, exist_ok=True)
        try:
            return make(root, **take, download=True)
        except (RuntimeError, OSError, ImportError, ValueError) as error:
            raise UserError(
                f"data.name={self.name}: not in {root}, and it cannot be downloaded ({first_line(error)})",
                "an internet connection, or torchvision's files in that folder",
                f"copy them from another machine, and name their folder: data.root=/my/torchvision "
                f'(there: python -c "from torchvision.datasets import {self.name}; '
                f"{self.name}('/my/torchvision', download=True)\")",
            ) from error


@register(group="data", name="huggingface")
@dataclass(frozen=True, kw_only=True)
class HuggingFaceData(DataSource):
    """A data set of the Hugging Face hub by its name, or a folder in one of its forms; needs the extra huggingface.

    Args:
        name: of the data set, such as ylecun/mnist, or a folder with Parquet files or images.
        config: which configuration, if the data set has several.
        revision: branch, tag or commit.
        image_column: name of the column with the images; found by its type when left out.
        label_column: name of the column with the labels; found by its type when left out.
    """

    name: Annotated[TypedPath, Resume.FIXED]
    config: Annotated[str | None, Resume.FIXED] = None
    revision: Annotated[str | None, Resume.FIXED] = None
    image_column: Annotated[str | None, Resume.FIXED] = None
    label_column: Annotated[str | None, Resume.FIXED] = None

    def read(self) -> SampleIndex:
        """List the images, writing them to the cache folder the first time."""
        chosen = (self._place(), self.config, self.revision, self.image_column, self.label_column)
        key = hashlib.sha256(repr(chosen).encode()).hexdigest()[:12]
        cached = cached_folder(f"huggingface-{key}", self._write)
        index = read_jsonl(Walker(cached))
        counted = json.loads((cached / MARKER).read_text(encoding="utf-8")).get("folder")
        if counted is None:
            return index
        files = FolderFiles.from_dict(Path(self.name).expanduser().resolve(), counted)
        files.log()
        return replace(index, files=files)

    def _place(self) -> str:
        """The name, or the folder and its content, so that a changed folder is written again."""
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            return self.name
        files = sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*"))
        return f"{folder.absolute()} {files}"

    def _write(self, folder: Path) -> dict[str, Any]:
        found = self._load()
        splits = {name: split_of(name) for name in found}
        if len(found) > 1 and not all(splits.values()):
            log.warning("%s: splits other than train, validation and test are left out: %s",
                        self.name, enumerate_words(name for name in found if not splits[name]))  # fmt: skip
        # A single split of the data set is split again by our own settings.
        kept = {name: splits[name] for name in found if splits[name]} if TRAIN in splits.values() else {}
        named = kept if len(kept) > 1 else dict.fromkeys(list(kept or found)[:1], "")
        taken: set[str] = set()
        counts = {
            name: write_rows(folder, split, self._rows(found[name], taken, split)) for name, split in named.items()
        }
        facts = {"name": self.name, "num_images": counts}
        own = Path(self.name).expanduser()
        return {**facts, "folder": _count_taken(own.resolve(), taken).to_dict()} if own.is_dir() else facts

    def _load(self) -> Mapping[str, Any]:
        try:
            import datasets
        except ImportError as error:
            raise require_extra("datasets", extra="huggingface", purpose="data=huggingface") from error
        folder = Path(self.name).expanduser()
        name = str(folder.absolute()) if folder.is_dir() else self.name
        try:
            found: Mapping[str, Any] = datasets.load_dataset(name, self.config, revision=self.revision)
        except Exception as error:  # the hub, its client and its readers each raise their own
            raise UserError(
                f"data.name={self.name} cannot be loaded ({first_line(error.__cause__ or error)})",
                "a data set of the hub and a connection to it, or a folder in one of its forms",
                "check the name and data.config; without a network, copy the data set's folder here and name it",
            ) from error
        return found

    def _rows(self, rows: Any, taken: set[str], split: str) -> Iterator[tuple[Content, str]]:
        """Yield the images with their labels; paths of those that are files are added to `taken`.

        Rows of a test split whose labels are hidden, as -1, are left out with a word.
        """
        from datasets import ClassLabel, Image

        images = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
        labels = [name for name, kind in rows.features.items() if isinstance(kind, ClassLabel)]
        image_column = self._column("image", self.image_column, images, rows)
        label_column = self._column(
            "label", self.label_column, labels or [n for n in ("label", "labels") if n in rows.features], rows
        )
        kind, num_hidden = rows.features[label_column], 0
        for number, row in enumerate(rows.cast_column(image_column, Image(decode=False))):
            image, target = row[image_column], row[label_column]
            is_hidden = target is None or (isinstance(kind, ClassLabel) and target == -1)
            if is_hidden and split == TEST:
                num_hidden += 1
                continue
            if image is None or is_hidden:
                raise UserError(
                    f"data.name={self.name}, row {number}: there is no {'image' if image is None else 'label'}",
                    "an image and a label in every row",
                    "choose another column, or another data set",
                )
            content = image["bytes"] if image["bytes"] is not None else Path(image["path"])
            if isinstance(content, Path):
                taken.add(os.path.realpath(content))
            yield content, kind.int2str(target) if isinstance(kind, ClassLabel) else str(target)
        if num_hidden:
            log.warning("%s: %s of test have no label and are left out", self.name, plural(num_hidden, "row"))

    def _column(self, what: str, wanted: str | None, found: list[str], rows: Any) -> str:
        """The column that is named, or the only one of its type."""
        if wanted in rows.features:
            return str(wanted)
        if wanted is None and len(found) == 1:
            return found[0]
        came = f"has no column '{wanted}'" if wanted else f"has {len(found)} columns that may be the {what}"
        raise UserError(
            f"data.name={self.name} {came}",
            f"one of {enumerate_words(rows.features)}",
            setting(f"data.{what}_column", found[0] if found else "…"),
        )


TABLES = (".parquet", ".arrow")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def _count_taken(folder: Path, taken: set[str]) -> FolderFiles:
    """Count every file of a local data set, of which some images were taken."""

    def classify(path: str) -> str:
        if os.path.realpath(folder / path) in taken:
            return "read"
        if path.endswith(TABLES) or path.rpartition("/")[2] in METADATA:
            return "labels"
        return "unlisted" if is_image(path) else kind_of(path)

    return count_files(folder, classify, follow_links=True)
