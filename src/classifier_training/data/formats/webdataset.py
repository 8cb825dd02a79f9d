"""data=webdataset: tar files in which the files of a sample follow each other, with one name and several endings."""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NamedTuple

from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.files import escapes
from classifier_training.core.register import register
from classifier_training.core.settings import PathText, Resume
from classifier_training.core.types import TRAIN
from classifier_training.data.accounting import FolderFiles
from classifier_training.data.cache_folder import cached_folder
from classifier_training.data.formats.jsonl import read_jsonl
from classifier_training.data.formats.source import FolderSource
from classifier_training.data.index import NoSamplesError, is_image, split_of
from classifier_training.data.walk import DataErrors, Walker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from classifier_training.data.index import SampleIndex

log = logging.getLogger(__name__)

ENDINGS = (".tar", ".tar.gz", ".tgz")
LABELS = ("cls", "cls.txt", "label")
"""Endings of the files that hold a label as text."""
FIELDS = ("label", "class", "class_name", "cls")
"""Fields of a sample's JSON that may be the label; the first that is there is taken."""

MAX_SAMPLED = 20
"""Files of a tar file by which it is recognized."""


@register(group="data", name="webdataset")
@dataclass(frozen=True, kw_only=True)
class WebDataset(FolderSource):
    """Tar files in the form of WebDataset: a.jpg, a.cls and a.json, then b.jpg …; unpacked to the cache the first time.

    The bytes of the images stay as they are. The other fields of a sample's JSON are metadata. Tar files whose names
    begin with train, val or test are splits.

    Args:
        label_field: field of the JSON with the label; when left out, the file .cls, or else label, class, class_name
            or cls.
        class_names: a text file with the name of a class in each line, for labels that are numbers, from 0.
    """

    label_field: Annotated[str | None, Resume.FIXED] = None
    class_names: Annotated[PathText | None, Resume.FIXED] = None

    def _read_root(self, root: str | None) -> SampleIndex:
        shards = find_shards(Path(root).expanduser()) if root is not None else []
        if not shards:
            raise UserError(f"data.root={root}: no tar file", "a tar file, or a folder of them", "data.root=/my/shards")
        names = None if self.class_names is None else Path(self.class_names).read_text(encoding="utf-8").splitlines()
        stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in shards]
        key = hashlib.sha256(repr((stamps, self.label_field, names, self.on_error)).encode()).hexdigest()[:12]
        folder = cached_folder(f"webdataset-{key}", lambda place: self._unpack(place, shards, names))
        index = read_jsonl(Walker(folder))
        return replace(index, files=FolderFiles(shards[0].parent, len(index.samples)))

    def _unpack(self, folder: Path, shards: Sequence[Path], names: Sequence[str] | None) -> dict[str, Any]:
        errors = DataErrors(self.on_error)
        splits = {file: split_of_shard(file) for file in shards}
        is_split = len(shards) > 1 and TRAIN in splits.values()
        if not is_split:
            splits = dict.fromkeys(shards, "")
        elif unnamed := [file.name for file in shards if not splits[file]]:
            log.warning("tar files that are no split are left out: %s", enumerate_words(unnamed))
        counts: dict[str, int] = {}
        log.info("unpacking %s, once", plural(len(shards), "tar file"))
        with ExitStack() as stack:
            lists: dict[str, IO[str]] = {}
            for file, split in splits.items():
                if is_split and not split:
                    continue
                place = folder / split
                if split not in lists:
                    place.mkdir(parents=True, exist_ok=True)
                    lists[split] = stack.enter_context((place / "annotations.jsonl").open("w", encoding="utf-8"))
                for sample in read_samples(file):
                    try:
                        row = self._row(file, sample, names)
                    except UserError as error:
                        errors.handle(error)
                        continue
                    image = place / row["path"]
                    image.parent.mkdir(parents=True, exist_ok=True)
                    image.write_bytes(sample.image)
                    lists[split].write(json.dumps(row, ensure_ascii=False) + "\n")
                    counts[split] = counts.get(split, 0) + 1
        errors.report(shards[0].parent)
        if not counts:
            raise NoSamplesError(
                f"{shards[0]}: no image with a label",
                "files a.jpg and a.cls, or a.jpg and a.json, that follow each other",
                "data=webdataset data.label_field=NAME names the field of the JSON with the label",
            )
        return {"shards": [str(file) for file in shards], "num_images": counts}

    def _row(self, file: Path, sample: TarSample, names: Sequence[str] | None) -> dict[str, Any]:
        where = f"{file}: {sample.key}"
        if not sample.ending:
            raise UserError(f"{where}: no image", "an image and a label", "leave such samples out: data.on_error=skip")
        if escapes(sample.key):
            raise UserError(f"{where}: leads out of the folder", "a relative name", "write the tar file again")
        fields = dict(sample.fields)
        label = sample.label if self.label_field is None else None
        if label is None:
            found = [name for name in ([self.label_field] if self.label_field else FIELDS) if name in fields]
            if not found or isinstance(fields[found[0]], (dict, list, type(None))):
                raise UserError(
                    f"{where}: no label" + (f" among the fields {enumerate_words(fields)}" if fields else ""),
                    "a file .cls, or a field with the label in .json",
                    "data=webdataset data.label_field=NAME, or leave such samples out: data.on_error=skip"
                    if fields or "/" not in sample.key
                    else f"where the folders in it are the classes, unpack it and train on the folder: tar -xf {file}",
                )
            label = str(fields.pop(found[0]))
        if names is not None:
            if not label.isdecimal() or int(label) >= len(names):
                raise UserError(
                    f"{where}: label {label!r}", f"a number below {len(names)}, of a line of data.class_names",
                    "leave data.class_names out, or name the file of these classes",
                )  # fmt: skip
            label = names[int(label)]
        stem = file.name.partition(".")[0]
        return {"path": f"images/{stem}/{sample.key}.{sample.ending}", "label": label, "metadata": fields}


def find_shards(root: Path) -> list[Path]:
    """Return a tar file itself, or the tar files directly in a folder, sorted by name."""
    if root.is_file():
        return [root.resolve()] if root.name.lower().endswith(ENDINGS) else []
    return sorted(file.resolve() for file in root.glob("*") if file.name.lower().endswith(ENDINGS))


def split_of_shard(file: Path) -> str:
    """Return the split that the name of a tar file begins with, as in train-000012.tar; an empty text if none."""
    name = file.name.partition(".")[0]
    return split_of(name.rstrip("0123456789").rstrip("-_").replace("_", "-").partition("-")[0])


class TarSample(NamedTuple):
    """The files of one sample.

    Args:
        key: their name without the ending.
        ending: of the image, without its dot; empty where there is none.
        image: bytes of the image.
        label: text of the file .cls; None where there is none.
        fields: of the JSON.
    """

    key: str
    ending: str = ""
    image: bytes = b""
    label: str | None = None
    fields: dict[str, Any] = {}  # noqa: RUF012 - never changed


def read_samples(file: Path) -> Iterator[TarSample]:
    """Yield the samples of a tar file, reading it once from its beginning to its end.

    Raises:
        UserError: when it is no tar file, or is cut short.
    """
    sample: TarSample | None = None
    try:
        with tarfile.open(file, "r|*") as opened:
            for member in opened:
                if not member.isfile():
                    continue
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                stem, _, ending = name.partition(".")
                if not stem:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = TarSample(key)
                content = opened.extractfile(member)
                assert content is not None
                sample = _with_file(sample, ending, content.read(), f"{file}: {member.name}")
            _check_end(file, opened.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{file}: not a whole tar file ({error})", "a tar file", "copy or download it again") from error
    if sample is not None:
        yield sample


def _check_end(file: Path, offset: int) -> None:
    """Raise where the block of zeros at the end is missing, which tarfile does not mind.

    Raises:
        tarfile.ReadError: then.
    """
    if file.name.lower().endswith(".tar"):
        with file.open("rb") as opened:
            opened.seek(offset)
            block = opened.read(tarfile.BLOCKSIZE)
        if block != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end is missing")


def _with_file(sample: TarSample, ending: str, content: bytes, where: str) -> TarSample:
    lower = ending.lower()
    if not sample.ending and is_image(f"a.{lower.rpartition('.')[2]}"):
        return sample._replace(ending=ending, image=content)
    if lower in LABELS:
        return sample._replace(label=content.decode(errors="replace").strip())
    if lower == "json":
        try:
            fields = json.loads(content)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})", "a JSON object", "write the tar file again") from error
        return sample._replace(fields=fields if isinstance(fields, dict) else {"json": fields})
    return sample


def looks_sharded(root: Path) -> bool:
    """Whether a tar file, or the first one in a folder, begins with samples: an image and a label of one name."""
    shards = find_shards(root)
    if not shards:
        return False
    try:
        with tarfile.open(shards[0], "r|*") as opened:
            names = [member.name for member, _ in zip(opened, range(MAX_SAMPLED), strict=False) if member.isfile()]
    except (tarfile.TarError, OSError, EOFError):
        return False
    images = {name.rpartition(".")[0] for name in names if is_image(name)}
    return any(name.rpartition(".")[0] in images for name in names if name.lower().endswith((".cls", ".json")))
