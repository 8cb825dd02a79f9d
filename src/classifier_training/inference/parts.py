"""Predictions in parts: the plan of a job that many processes share, and the folder with the parts that are done.

A part is a fixed number of batches of the source, in its order, as JSON lines, and appears under its name at once and
whole. So the parts that are there are all that a job needs to be resumed, and one that is computed again is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.storage.places import (
    is_remote,
    list_names,
    path_of,
    read_bytes,
    remove_folder,
    write_bytes,
)
from classifier_training.inference.outputs import is_folder, unwritable
from classifier_training.inference.rows import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from classifier_training.inference.batches import Plan
    from classifier_training.inference.rows import Row
    from classifier_training.inference.sources import Item

MOST_IMAGES = 1024
"""Images of a part of a large job, so that a store has few files, and a killed process has little to do again."""

FEWEST_PARTS = 128
"""Parts of a small job, where it has that many batches, so that all processes have work to its end."""

PART_NAME = re.compile(r"part-(\d{8,})\.jsonl")

PLAN_NAME, SUCCESS_NAME = "_plan.json", "_SUCCESS"
"""Names that programs which read a folder of files leave out."""


def files_only(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items that are files.

    Raises:
        UserError: for frames of a video, which no other process can read by their names.
    """
    for item in items:
        if item.pixels is not None:
            raise UserError(
                f"{item.path}: the frames of a video are read by one process",
                "images in files, which each machine reads by itself",
                "leave launcher= out, or save the frames as images first",
            )
        yield item


def digest_of(plan: Plan) -> str:
    """Return the SHA-256 of the paths and errors of a source, in their order."""
    digest = hashlib.sha256()
    for begin in range(0, len(plan.paths), MOST_IMAGES):
        digest.update(os.fsencode("\0".join([*plan.paths[begin : begin + MOST_IMAGES], ""])))
    for number, error in plan.errors.items():
        digest.update(os.fsencode(f"{number}\0{error}\0"))
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What a job computes: two jobs with the same plan have the same parts.

    Args:
        settings: all that the rows depend on besides the images, as plain values; among them the model's SHA-256.
        batch_size: images in a batch.
        num_images: in all.
        digest: of the source; see `digest_of`.
    """

    settings: Mapping[str, Any]
    batch_size: int
    num_images: int
    digest: str

    @property
    def batches_per_part(self) -> int:
        """Batches in a part; it depends on the source, and not on the machines."""
        num_batches = -(-self.num_images // self.batch_size)
        return max(1, min(num_batches // FEWEST_PARTS, MOST_IMAGES // self.batch_size))

    @property
    def images_per_part(self) -> int:
        """Images in each part but the last."""
        return self.batches_per_part * self.batch_size

    def batches_of(self, part: int) -> range:
        """Return the numbers of the batches of a part."""
        first = part * self.batches_per_part
        return range(first, first + -(-self.images_in(part) // self.batch_size))

    @property
    def num_parts(self) -> int:
        """Parts in all."""
        return -(-self.num_images // self.images_per_part)

    def images_in(self, part: int) -> int:
        """Return the number of images in a part."""
        return min(self.images_per_part, self.num_images - part * self.images_per_part)

    def values(self) -> dict[str, Any]:
        """Return what the plan's file says."""
        counts = {"images": self.num_images, "batch_size": self.batch_size, "images_per_part": self.images_per_part}
        values: dict[str, Any] = json.loads(to_json({**self.settings, "source_sha256": self.digest, **counts}))
        return values


class PartFolder:
    """The folder of a job's parts, on a disk or in a remote store.

    Args:
        output: as the user wrote it: the folder, or the file that the parts are to become.
    """

    def __init__(self, output: str) -> None:
        self.is_output = is_folder(output)
        place = output if is_remote(output) else os.path.abspath(os.path.expanduser(output))  # noqa: PTH100, PTH111
        folder, _, name = place.rpartition("/")
        self.folder = place.rstrip("/") if self.is_output else f"{folder}/{'' if is_remote(place) else '.'}{name}.parts"
        self._plan: JobPlan | None = None

    @property
    def path(self) -> Path:
        """The folder."""
        return path_of(self.folder)

    @property
    def plan(self) -> JobPlan:
        """Of the job."""
        assert self._plan is not None, "open() takes it"
        return self._plan

    def open(self, plan: JobPlan) -> frozenset[int]:
        """Write the plan, or find it there; returns the parts that are done.

        Raises:
            UserError: when the folder has the parts of another plan, or other files, or cannot be written to.
        """
        self._plan = plan
        try:
            names = list_names(self.folder)
            if PLAN_NAME not in names:
                if names:
                    raise UserError(
                        f"output={self.folder}: has files that are no parts of predictions, such as {names[0]}",
                        "an empty or new folder",
                        f"output={self.folder}/predictions/",
                    )
                write_bytes(self._path(PLAN_NAME), _encode(plan.values()))
        except OSError as error:
            raise unwritable(self.path, error) from error
        if changed := self._changed():
            raise UserError(
                f"{self.folder}: has predictions made with other settings or images ({', '.join(changed)})",
                "the command that began them, which resumes",
                f"choose another output=, or remove {self.folder}",
            )
        return frozenset(part for name in names if (part := part_number(name)) is not None and part < plan.num_parts)

    def is_plan_seen(self) -> bool:
        """Whether the folder has this plan, as every machine must see it."""
        try:
            return not self._changed()
        except OSError:
            return False

    def write(self, part: int, rows: Iterable[Row]) -> None:
        """Write a part, whole or not at all.

        Raises:
            UserError: when it cannot be written.
        """
        try:
            write_bytes(self._path(part_name(part)), "".join(to_json(row) + "\n" for row in rows).encode())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def read(self, part: int) -> list[Row] | None:
        """Return the rows of a part; None where it is missing or damaged."""
        try:
            rows = [json.loads(line) for line in read_bytes(self._path(part_name(part))).splitlines()]
        except (FileNotFoundError, ValueError):
            return None
        return rows if len(rows) == self.plan.images_in(part) else None

    def rows(self) -> Iterator[Row]:
        """Yield all rows in the order of the source.

        Raises:
            UserError: when a part is missing or damaged.
        """
        for part in range(self.plan.num_parts):
            rows = self.read(part)
            if rows is None:
                raise UserError(
                    f"{self._path(part_name(part))}: is missing or damaged",
                    "the part that was written",
                    "give the same command again, which computes it again",
                )
            yield from rows

    def copy_lines(self, path: Path) -> None:
        """Write the rows as they are, one a line."""
        with path.open("wb") as file:
            for part in range(self.plan.num_parts):
                file.write(read_bytes(self._path(part_name(part))))

    def mark_complete(self, counts: Mapping[str, Any]) -> None:
        """Write into a folder that is the output that all parts are there."""
        if self.is_output:
            write_bytes(self._path(SUCCESS_NAME), _encode(counts))

    def remove(self) -> None:
        """Remove what a finished output does not need."""
        if not self.is_output:
            remove_folder(self.folder)
        elif not is_remote(self.folder):
            for left in self.path.glob(".part-*.tmp"):
                left.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder; nothing is held."""

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _changed(self) -> list[str]:
        """Return the names of the settings that the folder's plan has other values of."""
        now = self.plan.values()
        try:
            before = dict(json.loads(read_bytes(self._path(PLAN_NAME))))
        except (ValueError, TypeError):
            return [PLAN_NAME]
        return [name for name in dict.fromkeys([*now, *before]) if now.get(name) != before.get(name)]


def part_name(part: int) -> str:
    """Return the file name of a part; the order of the names is that of the parts."""
    return f"part-{part:08d}.jsonl"


def part_number(name: str) -> int | None:
    """Return the part that a file name is of; None for another file."""
    found = PART_NAME.fullmatch(name)
    return None if found is None else int(found[1])


def _encode(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
