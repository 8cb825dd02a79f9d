"""JSONL annotations: a row is a sample, not an image, so that one picture may carry several labels."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.data.index import Sample, SampleIndex, resolve_root, split_of, walk_files
from classifier_training.data.source import FolderSource

log = logging.getLogger(__name__)


@register(group="data", name="jsonl")
@dataclass(frozen=True, kw_only=True)
class JSONL(FolderSource):
    """Rows {"image": …, "suffix": …} in root/{train,valid,test}/**/*.jsonl; the suffix is the label."""

    def read(self) -> SampleIndex:
        """List the rows; see the base class."""
        return read_jsonl(resolve_root(self.root))


def annotation_files(root: Path) -> list[Path]:
    """Every .jsonl file below the root."""
    return [path for path in walk_files(root) if path.suffix.lower() == ".jsonl"]


def looks_annotated(file: Path) -> bool:
    """Whether one of a file's first rows has a field that an annotation has; notes and logs may be JSONL too."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for line in itertools.islice(lines, 20):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and row.keys() & {"image", "suffix"}:
                return True
    return False


def read_jsonl(root: Path) -> SampleIndex:
    """List the rows of every annotation file; the first folder below the root names the split.

    Raises:
        UserError: for a row that is wrong, with its file and line, or when there is none.
    """
    samples: list[Sample] = []
    for file in annotation_files(root):
        split = split_of(file.relative_to(root).parts[0])
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    samples.append(_read_row(line, f"{file}:{number}", file.parent, root, split))
    if not samples:
        raise UserError(
            f"{root}: no JSONL row found",
            'root/train/annotations.jsonl with rows like {"image": "a.jpg", "suffix": "17"}',
            "check data.root, or use data=image_folder for a folder a class",
        )
    outside = [sample for sample in samples if not sample.split]
    if outside and len(outside) < len(samples):
        log.warning(
            "%s: %d rows stand in files outside train, valid and test and are left out, the first of %s",
            root, len(outside), outside[0].path,
        )  # fmt: skip
        samples = [sample for sample in samples if sample.split]
    return SampleIndex(root, tuple(samples))


def _read_row(line: str, where: str, folder: Path, root: Path, split: str) -> Sample:
    expected = 'one JSON object a line: {"image": "a.jpg", "suffix": "17"}'
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})", expected, "mend the line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__} instead of an object", expected, "mend the line")
    for key in ("image", "suffix"):
        if not isinstance(row.get(key), str):
            came = f"no field '{key}'" if key not in row else f"'{key}' is {json.dumps(row[key])}"
            raise UserError(f"{where}: {came}", expected, f"give '{key}' a text; an empty suffix is a class of its own")
    return Sample(_locate(row["image"], where, folder, root), row["suffix"], split)


def _locate(name: str, where: str, folder: Path, root: Path) -> str:
    """Find the image beside its annotations, below its split, or below the root; never outside the root."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.parts:
        raise UserError(
            f"{where}: the image path {name!r} leads out of the data folder",
            "a path relative to the annotation file, inside data.root",
            "mend the path in that row",
        )
    split_folder = root / folder.relative_to(root).parts[0] if folder != root else root
    for base in (folder, folder / "images", split_folder, root):
        if (base / pure).is_file():
            return (base / pure).relative_to(root).as_posix()
    raise UserError(
        f"{where}: the image {name!r} does not exist",
        f"a file below {folder}",
        "mend the path in that row, or remove the row",
    )
