"""torchvision's data sets of one label an image, written out once as image files."""

from __future__ import annotations

import hashlib
import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from classifier_training.core.errors import UserError, enumerate_words, nearest
from classifier_training.core.register import register
from classifier_training.core.runtime import cache_dir
from classifier_training.core.settings import PathText, Resume, Trait
from classifier_training.data.formats.downloaded import Content, write_rows
from classifier_training.data.formats.jsonl import read_jsonl
from classifier_training.data.formats.source import DataSource
from classifier_training.data.sample_sets.made import made_folder
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
"""By name: what its class takes for each split."""


def known_set(name: str) -> str:
    """Return the name as torchvision spells it, or say which there are."""
    spelt = {known.casefold(): known for known in SETS}.get(name.casefold())
    if spelt is None:
        close = nearest(name, SETS)
        raise ValueError(
            f"no such data set; {f'near it: {enumerate_words(close)}' if close else enumerate_words(SETS)}"
        )
    return spelt


@register(group="data", name="torchvision")
@dataclass(frozen=True, kw_only=True)
class TorchvisionData(DataSource):
    """A data set of torchvision's by its name, such as CIFAR10, downloaded when it is not there.

    Args:
        name: as torchvision spells it: CIFAR10, MNIST, Food101, EuroSAT, ….
        root: folder that torchvision keeps its files in; one in the cache when left out.
    """

    name: Annotated[str, AfterValidator(known_set), Resume.FIXED]
    root: Annotated[PathText | None, Resume.DIVERGES, Trait.MACHINE] = None

    def read(self) -> SampleIndex:
        """List the images, writing them to the cache folder the first time."""
        root = Path(self.root) if self.root else cache_dir() / "torchvision"
        key = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        folder = made_folder(f"torchvision-{self.name}-{key}", lambda place: self._write(place, root))
        return read_jsonl(Walker(folder))

    def _write(self, folder: Path, root: Path) -> dict[str, Any]:
        counts = {split: write_rows(folder, split, self._rows(root, take)) for split, take in SETS[self.name].items()}
        return {"name": self.name, "root": str(root), "num_images": counts}

    def _rows(self, root: Path, take: Mapping[str, Any]) -> Iterator[tuple[Content, str]]:
        found = self._open(root, take)
        names = getattr(found, "classes", None) or getattr(found, "categories", None)
        for place in range(len(found)):
            picture, target = found[place]
            label = names[target] if names and isinstance(target, int) else str(int(target))
            yield picture, label if isinstance(label, str) else str(label[0])

    def _open(self, root: Path, take: Mapping[str, Any]) -> Any:
        from torchvision import datasets

        make = getattr(datasets, self.name)
        # Sets that keep files hand over their paths, so that a JPEG stays the JPEG it is.
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
                f"data.name={self.name}: not in {root}, and it cannot be downloaded ({_words(error)})",
                "a way to the internet, or torchvision's files in that folder",
                f"copy them from a machine that has them, and name their folder: data.root=/my/torchvision "
                f'(there: python -c "from torchvision.datasets import {self.name}; '
                f"{self.name}('/my/torchvision', download=True)\")",
            ) from error


def _words(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
