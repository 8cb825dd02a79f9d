"""JSONL annotations: a row is a sample, not an image, so that one picture may carry several labels."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.register import register
from classifier_training.data.index import Sample, SampleIndex, split_of
from classifier_training.data.listed import locate, open_text
from classifier_training.data.source import FolderSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from classifier_training.data.walk import Walker

log = logging.getLogger(__name__)

OWN_FIELDS = ("image", "prefix", "suffix", "metadata")


@register(group="data", name="jsonl")
@dataclass(frozen=True, kw_only=True)
class JSONL(FolderSource):
    """Rows {"image": …, "suffix": …} in root/{train,valid,test}/**/*.jsonl; the suffix is the label."""

    def read_one(self, walker: Walker) -> SampleIndex:
        """List the rows; see the base class."""
        return read_jsonl(walker)


def annotation_files(walker: Walker) -> list[Path]:
    """Every .jsonl file below the root."""
    return [Path(path) for path in walker.files(walker.root) if path.lower().endswith(".jsonl")]


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


def read_jsonl(walker: Walker) -> SampleIndex:
    """List the rows of every annotation file; the first folder below the root names the split.

    Raises:
        UserError: for a row that is wrong, with its file and line, or when there is none.
    """
    root = walker.root
    samples: list[Sample] = []
    for file in annotation_files(walker):
        split = split_of(file.relative_to(root).parts[0])
        for number, line in enumerate(open_text(file), start=1):
            if line.strip():
                try:
                    samples.append(_read_row(line, f"{file}:{number}", file.parent, walker, split))
                except UserError as error:
                    walker.faults.meet(error)
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


def _read_row(line: str, where: str, folder: Path, walker: Walker, split: str) -> Sample:
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
    # The image lies beside its annotations, below its split, or below the root.
    top = walker.root / folder.relative_to(walker.root).parts[0] if folder != walker.root else walker.root
    path = locate(row["image"], where, (folder, folder / "images", top, walker.root), walker)
    return Sample(path, row["suffix"], split, metadata=_metadata(row))


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a row says beside its picture and label: its own further fields, and those of its metadata."""
    further = {name: value for name, value in row.items() if name not in OWN_FIELDS}
    given = row.get("metadata")
    return further | (given if isinstance(given, dict) else {}) or None
