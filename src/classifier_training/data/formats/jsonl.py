"""JSONL annotations: a row is a sample, not an image, so that one image may carry several labels."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from classifier_training.core.errors import UserError, plural
from classifier_training.core.register import register
from classifier_training.data.formats.listing import NamedFileSource, locate, named_split, open_text
from classifier_training.data.index import NoSamplesError, SampleIndex, split_of
from classifier_training.data.samples import SamplesBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from classifier_training.data.samples import SampleRow
    from classifier_training.data.walk import Walker

log = logging.getLogger(__name__)

IMAGE_FIELDS = ("image", "path", "file_name")
"""The last is that of Hugging Face's metadata.jsonl."""

LABEL_FIELDS = ("suffix", "label")
OWN_FIELDS = (*IMAGE_FIELDS, *LABEL_FIELDS, "prefix", "split", "group", "metadata")


@register(group="data", name="jsonl")
@dataclass(frozen=True, kw_only=True)
class JSONL(NamedFileSource):
    """Rows {"image": …, "suffix": …} or {"path": …, "label": …}, optionally with split and group; others are metadata.

    The path may also be called file_name, as in Hugging Face's metadata.jsonl.

    Args:
        file: the rows; paths in them are relative to data.root, or to its own folder. Left out, it is every .jsonl file
            below data.root, of which those in train/, valid/ and test/ are splits.
    """

    endings: ClassVar[tuple[str, ...]] = (".jsonl",)

    def find_files(self, walker: Walker) -> list[Path]:
        """Return every .jsonl file; see the base class."""
        return annotation_files(walker)

    def read_files(self, files: Sequence[Path], walker: Walker) -> SampleIndex:
        """List the rows; see the base class."""
        return read_jsonl(walker, files)


def annotation_files(walker: Walker) -> list[Path]:
    """Every .jsonl file below the root."""
    return [Path(path) for path in walker.files(walker.root) if path.lower().endswith(".jsonl")]


def looks_annotated(file: Path) -> bool:
    """Whether one of a file's first rows has the fields of an annotation; logs may be JSONL, too."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for line in itertools.islice(lines, 20):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and (
                row.keys() & {"image", "suffix"} or ("label" in row and row.keys() & set(IMAGE_FIELDS))
            ):
                return True
    return False


def read_jsonl(walker: Walker, files: Sequence[Path] | None = None) -> SampleIndex:
    """List the rows of annotation files; the split is a row's own, else that of the first folder below the root.

    Args:
        walker: of the root.
        files: to read; every one below the root when left out.

    Raises:
        UserError: for a row that is wrong, with its file and line, or when there is none.
    """
    root = walker.root
    builder = SamplesBuilder()
    is_outside: list[bool] = []
    files = annotation_files(walker) if files is None else files
    splits = [split_of(file.relative_to(root).parts[0] if file.is_relative_to(root) else "") for file in files]
    for file, split in zip(files, splits, strict=True):
        for number, line in enumerate(open_text(file), start=1):
            if line.strip():
                try:
                    builder.add(*_read_row(line, f"{file}:{number}", file.parent, walker, split))
                    is_outside.append(not split)
                except UserError as error:
                    walker.errors.handle(error)
    if not len(builder):
        raise NoSamplesError(
            f"{root}: no JSONL row found",
            'root/train/annotations.jsonl with rows like {"image": "a.jpg", "suffix": "17"}',
            "check data.root, or use data=image_folder for a folder a class",
        )
    samples = builder.samples()
    # Rows of one file without a split are divided; a file beside those of the splits is no part of them.
    outside = samples.splits.where("") & np.array(is_outside)
    if outside.any() and any(splits):
        log.warning(
            "%s: %s in files outside train, valid and test left out; the first is of %s",
            root, plural(int(outside.sum()), "row"), samples.paths[outside.argmax()],
        )  # fmt: skip
        samples = samples[~outside]
    return SampleIndex(root, samples, label_files=tuple(files))


def _read_row(line: str, where: str, folder: Path, walker: Walker, split: str) -> SampleRow:
    expected = 'one JSON object a line: {"image": "a.jpg", "suffix": "17"}'
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})", expected, "correct the line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__} instead of an object", expected, "correct the line")
    values = []
    usual = 1 if row.keys() & {*IMAGE_FIELDS[1:], *LABEL_FIELDS[1:]} else 0
    for names in (IMAGE_FIELDS, LABEL_FIELDS):
        key = next((name for name in names if name in row), names[usual])
        if not isinstance(row.get(key), str):
            came = f"no field '{key}'" if key not in row else f"'{key}' is {json.dumps(row[key])}"
            raise UserError(f"{where}: {came}", expected, f"give '{key}' a text; an empty label is a class of its own")
        values.append(row[key])
    # The image is beside its annotations, below its split, or below the root.
    top = walker.root
    folders = [top]
    if folder.is_relative_to(top):
        own_split = top / folder.relative_to(top).parts[0] if folder != top else top
        folders = [folder, folder / "images", own_split, top]
    group = row.get("group")
    return (
        locate(values[0], where, folders, walker),
        values[1],
        named_split(row.get("split"), where) or split,
        "" if group is None else str(group),
        _metadata(row),
    )


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metadata of a row: its further fields, and those of its field metadata."""
    further = {name: value for name, value in row.items() if name not in OWN_FIELDS}
    given = row.get("metadata")
    return further | (given if isinstance(given, dict) else {}) or None
