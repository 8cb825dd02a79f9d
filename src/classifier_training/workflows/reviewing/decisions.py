"""The decisions of people on labels: read from and added to the files of corrections.

The files are the record, and several servers, editors and version control may change them: what others add is read
before each decision, and a page that did not know of it is told.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import RLock
from typing import TYPE_CHECKING, Literal

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.core.run_dir import sha256, write_csv
from classifier_training.core.run_reader import read_rows
from classifier_training.data.corrections import (
    ACTIONS,
    UNDONE,
    LabelCorrection,
    append_corrections,
    read_corrections,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from classifier_training.workflows.reviewing.collection import Collection

LABELS_FILE = "labels.csv"
"""Beside images without labels: those that were given, as a table that `train data.root=` reads."""

Action = Literal["relabel", "drop", "keep", "undo"]


@dataclass(frozen=True)
class Request:
    """A decision that a page asks for.

    Args:
        row: of the image.
        action: undo takes the last one back.
        new: label, of relabel.
        seen: decisions on the image that the page knew of; None to decide whatever there is.
        back: of undo: how many decisions there were before the one that is taken back.
    """

    row: int
    action: Action
    new: str = ""
    seen: int | None = None
    back: int = 0


class Decisions:
    """The decisions on the images of a collection.

    Args:
        collection: the images.
        who: decides here.
    """

    def __init__(self, collection: Collection, who: str) -> None:
        self.collection = collection
        self.who = who
        self.is_decided = np.zeros(len(collection), dtype=bool)
        self.counts = Counter[str]()
        """Decisions of this session, by action."""
        self._history: dict[int, list[LabelCorrection]] = {}
        self._files = [_Tail(place.file) for place in collection.places]
        self._lock = RLock()
        self.refresh()
        # Labels that nobody gave here; they come back where a decision is taken back.
        self._own = {} if collection.is_labelled else {path: row["label"] for path, row in self._table()[1].items()}
        for row in self._history:
            if self._gives_label(row):
                self._own.pop(collection.paths[row], None)

    def _gives_label(self, row: int) -> bool:
        found = self.standing(row)
        return found is not None and found.action == "relabel"

    def refresh(self) -> None:
        """Read what was added to the files since they were last read.

        Raises:
            UserError: when a line is wrong.
        """
        with self._lock:
            added = [tail.added() for tail in self._files]
            if any(lines is None for lines in added):
                # Not only grown, such as after a checkout of another version.
                self._history.clear()
                self.is_decided[:] = False
                added = [tail.everything() for tail in self._files]
            for place, lines in zip(self.collection.places, added, strict=True):
                for line in lines or ():
                    self._note(replace(line, path=f"{place.prefix}{line.path}"))

    def _note(self, line: LabelCorrection) -> None:
        row = self.collection.samples.get(line.sample)
        if row is not None:
            self._history.setdefault(row, []).append(line)
            self.is_decided[row] = line.why != UNDONE

    def number(self, row: int) -> int:
        """How many decisions there are on an image, those that were taken back among them."""
        return len(self._history.get(row, ()))

    def standing(self, row: int) -> LabelCorrection | None:
        """The decision that counts; None where there is none."""
        lines = self._history.get(row)
        return lines[-1] if lines and lines[-1].why != UNDONE else None

    def label(self, row: int) -> str:
        """The label of an image as it is corrected."""
        found = self.standing(row)
        return found.new if found is not None and found.action == "relabel" else self.collection.labels[row]

    def decide(self, requests: Sequence[Request]) -> list[int]:
        """Write decisions down. When this returns, they are on the disk.

        Returns:
            Rows that others have decided on meanwhile, on which nothing is written.

        Raises:
            UserError: when a file of corrections is damaged.
            OSError: when it cannot be written, or an image cannot be read.
        """
        with self._lock:
            self.refresh()
            stale = [request.row for request in requests if request.seen not in (None, self.number(request.row))]
            now = datetime.now(UTC).isoformat(timespec="seconds")
            lines: dict[int, list[LabelCorrection]] = {}
            for request in requests:
                if request.row not in stale:
                    line = self._line(request, now)
                    lines.setdefault(self._place_of(line.path), []).append(line)
                    self.counts[request.action] += 1
            for number, added in lines.items():
                place = self.collection.places[number]
                append_corrections(
                    place.file, [replace(line, path=line.path.removeprefix(place.prefix)) for line in added]
                )
            self.refresh()
            if lines and not self.collection.is_labelled:
                self._write_labels()
            return stale

    def _line(self, request: Request, when: str) -> LabelCorrection:
        row = request.row
        path, old = self.collection.paths[row], self.collection.labels[row]
        content = sha256(self.collection.root / path)
        line = LabelCorrection(path=path, sha256=content, old=old, action="keep", who=self.who, when=when)
        if request.action == "undo":
            before = self._history.get(row, [])[: max(0, request.back)]
            if before and before[-1].why != UNDONE:
                earlier = before[-1]
                why = f"{UNDONE}: as {earlier.who or 'somebody'} decided"
                return replace(line, action=earlier.action, new=earlier.new, why=why)
            return replace(line, why=UNDONE)
        if request.action == "relabel" and request.new != old:
            return replace(line, action="relabel", new=request.new)
        return replace(line, action="drop" if request.action == "drop" else "keep")

    def _place_of(self, path: str) -> int:
        places = self.collection.places
        return next((number for number, place in enumerate(places) if path.startswith(place.prefix)), 0)

    def _write_labels(self) -> None:
        """Write the labels that were given to images without labels as a table that `train data.root=` reads."""
        header, known = self._table()
        for row in sorted(self._history):
            path = self.collection.paths[row]
            label = self.label(row) if self._gives_label(row) else self._own.get(path)
            if label is None:
                known.pop(path, None)
            else:
                known[path] = {**known.get(path, {}), "path": path, "label": label}
        write_csv(self._labels_file, header, ([row.get(name) or "" for name in header] for row in known.values()))

    @property
    def _labels_file(self) -> Path:
        return self.collection.places[0].file.with_name(LABELS_FILE)

    def _table(self) -> tuple[list[str], dict[str, dict[str, str]]]:
        """Read the table of labels: its columns, and its rows by path.

        Raises:
            UserError: when it has no column of paths or of labels.
        """
        file = self._labels_file
        rows = read_rows(file) if file.exists() else []
        header = list(rows[0]) if rows else ["path", "label"]
        if rows and not {"path", "label"}.issubset(header):
            raise UserError(
                f"{file}: its columns are {enumerate_words(map(repr, header), limit=5)}",
                "columns path and label, since labels that are given here are added to this table",
                "rename its columns, or the file",
            )
        return header, {row["path"]: row for row in rows}

    def words(self) -> str:
        """What was decided in this session and where it is written."""
        names = {"relabel": "relabelled", "keep": "right", "drop": "dropped", "undo": "undone"}
        done = [f"{self.counts[name]:,} {word}" for name, word in names.items() if self.counts[name]]
        files = ", ".join(str(place.file) for place in self.collection.places)
        return f"{', '.join(done)}: {files}" if done else f"nothing was decided; decisions are written to {files}"


class _Tail:
    """Reads what is added to a file of corrections.

    Args:
        file: which need not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._header: list[str] = []
        self._inode = 0
        self._end = 0

    def everything(self) -> list[LabelCorrection]:
        """Read the whole file.

        Raises:
            UserError: when a line is wrong.
        """
        if not self.file.is_file():
            self._header, self._inode, self._end = [], 0, 0
            return []
        with self.file.open("rb") as opened:
            # Nobody adds a line while the file is measured and read.
            fcntl.flock(opened, fcntl.LOCK_SH)
            self._inode, self._end = _measure(opened.fileno())
            found = list(read_corrections(self.file))
            self._header = next(csv.reader(io.StringIO(opened.readline().decode("utf-8-sig"))), [])
            return found

    def added(self) -> list[LabelCorrection] | None:
        """Read what was added since; None where something else has happened to the file."""
        try:
            opened = self.file.open("rb")
        except FileNotFoundError:
            return None if self._end else []
        with opened:
            fcntl.flock(opened, fcntl.LOCK_SH)
            inode, end = _measure(opened.fileno())
            if inode != self._inode or end < self._end:
                return None
            opened.seek(self._end)
            text = opened.read(end - self._end).decode("utf-8", "surrogateescape")
            if not text:
                return []
            rows = list(csv.DictReader(io.StringIO(text, newline=""), self._header))
            if not text.endswith("\n") or any(row.get("action") not in ACTIONS for row in rows):
                return None
            self._end = end
            return [_correction(row) for row in rows]


def _measure(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size


def _correction(row: Mapping[str, str | None]) -> LabelCorrection:
    action = next(name for name in ACTIONS if name == row["action"])
    texts = {name: row.get(name) or "" for name in ("path", "sha256", "old", "new", "who", "when", "why")}
    return LabelCorrection(**texts, action=action)
