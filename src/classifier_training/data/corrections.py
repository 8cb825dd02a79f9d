"""Corrections of a data set: a file beside the images that says which labels and splits are others.

Images and folders stay as they are. The file only grows, a line for each decision, so that version control shows who
decided what, and a later line on the same sample takes the place of an earlier one.
"""

from __future__ import annotations

import csv
import fcntl
import io
import logging
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words, nearest, plural
from classifier_training.core.files import escapes
from classifier_training.core.run_dir import sha256
from classifier_training.core.storage.lance_rows import ENDING, set_place
from classifier_training.core.storage.places import path_of
from classifier_training.core.types import SPLITS
from classifier_training.data.formats.listing import open_text
from classifier_training.data.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.samples import Sample

log = logging.getLogger(__name__)

FILE_NAME, AUTO = "corrections.csv", "auto"

UNDONE = "undone"
"""Begins the reason of a line that takes a decision back. Alone, the image counts as not looked at; it is a `keep`,
because that makes earlier lines count no more."""

Action = Literal["relabel", "drop", "move", "keep"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True, kw_only=True)
class LabelCorrection:
    """One decision on one sample.

    Args:
        path: of the image, relative to the data folder, with forward slashes.
        sha256: of the file's content when it was looked at; an empty one is not checked.
        old: label in the data.
        new: the right label for relabel, the split for move; empty for the others.
        action: relabel, drop (leave the sample out), move (to another split) or keep (the label in the data is right,
            and earlier lines on the sample no longer count).
        who: decided it.
        when: it was decided, in ISO 8601.
        why: in a few words.
    """

    path: str
    sha256: str = ""
    old: str
    new: str = ""
    action: Action
    who: str = ""
    when: str = ""
    why: str = ""

    @property
    def sample(self) -> tuple[str, str]:
        """Which sample it is about: path and label in the data."""
        return self.path, self.old


CHANGED, GONE = "was another image when it was looked at", "is not in the data"
CONFLICTING = "has another label in the data now"
"""Why a line has no effect."""

COLUMNS = tuple(field.name for field in fields(LabelCorrection))
NEEDED = {"path", "old", "action"}


def read_corrections(file: Path) -> tuple[LabelCorrection, ...]:
    """Read a file of corrections, every line of it.

    Raises:
        UserError: when it cannot be read, or a line is wrong, with its number.
    """
    if not file.is_file():
        raise UserError(
            f"data.corrections={file}: no such file",
            f"a CSV file with the columns {', '.join(COLUMNS)}",
            "check the spelling, or leave it out",
        )
    reader = csv.DictReader(open_text(file), strict=True)
    missing = sorted(NEEDED - set(reader.fieldnames or ()))
    if missing:
        raise UserError(
            f"{file}: no column {enumerate_words(map(repr, missing))}",
            f"a CSV file with the columns {', '.join(COLUMNS)}",
            "add it to the first line",
        )
    try:
        return tuple(_correction(row, f"{file}:{reader.line_num}") for row in reader)
    except csv.Error as error:
        raise UserError(
            f"{file}:{reader.line_num}: not CSV ({error})", "comma-separated values", "correct it"
        ) from error


def _correction(row: dict[str, str | None], where: str) -> LabelCorrection:
    values = {name: row.get(name) or "" for name in COLUMNS if name != "action"}
    given = row["action"] or ""
    action = next((name for name in ACTIONS if name == given), None)
    if action is None:
        close = nearest(given, ACTIONS)
        raise UserError(
            f"{where}: action {given!r}",
            f"one of {', '.join(ACTIONS)}",
            f"write {close[0]}" if close else "correct the line",
        )
    if escapes(values["path"]):
        raise UserError(
            f"{where}: the path {values['path']!r} leads out of the data folder",
            "a path relative to the data folder",
            "correct the line",
        )
    if action == "move" and values["new"] not in SPLITS:
        raise UserError(f"{where}: move to {values['new']!r}", f"one of {', '.join(SPLITS)}", "correct the column new")
    return LabelCorrection(**values, action=action)


def standing(corrections: Iterable[LabelCorrection]) -> dict[tuple[str, str], LabelCorrection]:
    """Return the line that counts on each sample, the last one, unless that took a decision back."""
    found = {correction.sample: correction for correction in corrections}
    return {sample: line for sample, line in found.items() if line.why != UNDONE}


def saved_corrections(run_dir: RunDir) -> tuple[LabelCorrection, ...]:
    """Read the corrections that a run's data had when it began.

    Raises:
        UserError: when the file is damaged.
    """
    return read_corrections(run_dir.corrections) if run_dir.corrections.exists() else ()


def append_corrections(file: Path, corrections: Iterable[LabelCorrection]) -> None:
    """Add lines to a file of corrections, which is made if there is none. When this returns they are on the disk.

    Several processes may add to the same file at once. Lines have the columns that the file has, in their order.

    Raises:
        UserError: when the file has no column for what is to be written.
    """
    with file.open("a+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        end = opened.seek(0, os.SEEK_END)
        if end:
            opened.seek(end - 1)
        broken = bool(end) and opened.read(1) != b"\n"
        opened.seek(0)
        header = next(csv.reader([opened.readline().decode("utf-8-sig", "replace")]), None) if end else None
        needed = {"path", "old", "new", "action"}
        if header is not None and not needed <= set(header):
            raise UserError(
                f"{file}: no column {enumerate_words(map(repr, sorted(needed - set(header))))}",
                f"a CSV file with the columns {', '.join(COLUMNS)}",
                "add it to the first line",
            )
        text = io.StringIO()
        writer = csv.DictWriter(text, header or COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        if header is None:
            writer.writeheader()
        for correction in corrections:
            writer.writerow({name: getattr(correction, name) for name in COLUMNS})
        # A writer that was killed may have left a part of a line; the next one begins on a line of its own.
        opened.write((b"\n" if broken else b"") + text.getvalue().encode())
        opened.flush()
        os.fsync(opened.fileno())


@dataclass(frozen=True)
class Corrected:
    """Samples after their corrections.

    Args:
        samples: in their order, without those that were dropped.
        counts: samples that were changed, by action, and lines that had no effect, as `ignored`.
        ignored: the lines that had no effect, by the reason.
        applied: the lines that had an effect, by sample; their files are the ones that were looked at.
        lines: every line, oldest first.
    """

    samples: Samples
    counts: dict[str, int]
    ignored: Mapping[str, Sequence[LabelCorrection]]
    applied: Mapping[tuple[str, str], LabelCorrection]
    lines: tuple[LabelCorrection, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Why lines had no effect; a line for each reason."""
        return tuple(
            f"{enumerate_words(sorted(line.path for line in lines), limit=3)} {reason}"
            + (f" ({len(lines)} in all)" if len(lines) > 3 else "")
            for reason, lines in self.ignored.items()
        )

    @property
    def words(self) -> str:
        """What was done; empty where nothing was."""
        return ", ".join(
            words
            for action, words in (
                ("relabel", f"{plural(self.counts['relabel'], 'label')} changed"),
                ("drop", f"{plural(self.counts['drop'], 'sample')} left out"),
                ("move", f"{plural(self.counts['move'], 'sample')} moved to another split"),
            )
            if self.counts[action]
        )

    def again(self, samples: Iterable[Sample]) -> Samples:
        """Apply the same lines to the samples after these were split; no file is read."""
        table = Samples.of(samples)
        return _changed(table, _rows_of(table, self.applied), self.applied)

    def report(self) -> None:
        """Log what was done, and what had no effect."""
        if self.words:
            log.info("corrections: %s", self.words)
        for problem in self.problems:
            log.warning("corrections without effect: %s", problem)


def apply_corrections(root: Path, samples: Iterable[Sample], corrections: Sequence[LabelCorrection]) -> Corrected:
    """Apply corrections to samples that have their splits.

    They are applied after a random split, so that the other samples are in the same splits with and without them.

    Args:
        root: folder that paths begin from.
        samples: as the data has them.
        corrections: oldest first.
    """
    table = Samples.of(samples)
    counting = {sample: line for sample, line in standing(corrections).items() if line.action != "keep"}
    rows = _rows_of(table, counting)
    known = dict(sorted(rows, key=lambda sample: rows[sample][-1]))
    changed = {sample: line for sample, line in counting.items() if line.path in known and _has_changed(root, line)}
    applied = {sample: line for sample, line in counting.items() if sample in rows and sample not in changed}
    counts = Counter[str]()
    for sample, line in applied.items():
        counts[line.action] += len(rows[sample])
    others = [line for sample, line in counting.items() if sample not in applied and sample not in changed]
    done = [line for line in others if line.action == "relabel" and known.get(line.path) == line.new]
    gone = [line for line in others if line.path not in known and line.action != "drop"]
    finished = {line.sample for line in done}
    conflicting = [line for line in others if line.path in known and line.sample not in finished]
    reasons = {CHANGED: [*changed.values()], GONE: gone, CONFLICTING: conflicting}
    return Corrected(
        _changed(table, rows, applied),
        {name: counts[name] for name in ("relabel", "drop", "move")} | {"ignored": sum(map(len, reasons.values()))},
        {reason: lines for reason, lines in reasons.items() if lines},
        applied,
        tuple(corrections),
    )


def _rows_of(table: Samples, lines: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[int]]:
    """The rows of the samples whose image has a correction, in the order of the data."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in table.paths.find({path for path, _ in lines}).tolist():
        found[table.paths[row], table.labels[row]].append(row)
    return dict(found)


def _changed(
    table: Samples, rows: Mapping[tuple[str, str], list[int]], applied: Mapping[tuple[str, str], LabelCorrection]
) -> Samples:
    found = [(row, line) for sample, line in applied.items() for row in rows.get(sample, ())]
    named = {name: [(row, line.new) for row, line in found if line.action == name] for name in ("relabel", "move")}
    if named["relabel"]:
        table = table.with_columns(labels=table.labels.replaced(*_unzip(named["relabel"])))
    if named["move"]:
        table = table.with_columns(splits=table.splits.replaced(*_unzip(named["move"])))
    dropped = [row for row, line in found if line.action == "drop"]
    if not dropped:
        return table
    kept = np.ones(len(table), bool)
    kept[dropped] = False
    return table[kept]


def _unzip(changes: Sequence[tuple[int, str]]) -> tuple[NDArray[np.int64], list[str]]:
    return np.array([row for row, _ in changes], dtype=np.int64), [value for _, value in changes]


def _has_changed(root: Path, line: LabelCorrection) -> bool:
    return bool(line.sha256) and sha256(root / line.path) != line.sha256


def beside_set(root: str) -> Path:
    """Return the file of a Lance set's corrections: beside /my/set.lance, /my/set.corrections.csv."""
    return path_of(f"{root.removesuffix(ENDING)}.{FILE_NAME}")


def find_corrections(setting: str | None, roots: Sequence[Path], base: Path) -> tuple[LabelCorrection, ...]:
    """Read the corrections that a data set has.

    Args:
        setting: a file; auto takes the corrections.csv in each data folder, or beside a Lance set, if there is one;
            None takes none.
        roots: the data folders, or files that list images.
        base: folder that the paths of the samples begin from.

    Raises:
        UserError: when a file cannot be read, or a line is wrong.
    """
    if setting is None:
        return ()
    if setting != AUTO:
        return read_corrections(Path(setting).expanduser())
    found: list[LabelCorrection] = []
    for root in roots:
        place = set_place(root)
        if place is not None:
            own = set_place(base)
            inside = base if own is not None and own.root == place.root else path_of(place.name)
            file, prefix = beside_set(place.root), os.path.relpath(inside, base)
        else:
            folder = root if root.is_dir() else root.parent
            file, prefix = folder / FILE_NAME, os.path.relpath(folder.resolve(), base)
        if file.is_file():
            lines = read_corrections(file)
            found += lines if prefix == "." else (replace(line, path=f"{prefix}/{line.path}") for line in lines)
    return tuple(found)


def edited_labels(
    root: Path, samples: Iterable[Sample], corrected: Corrected, given: Iterable[tuple[str, str]], *, why: str
) -> tuple[LabelCorrection, ...]:
    """Return the lines by which the labels of a table that somebody edited would become those of the data.

    Of an image with several labels, one may be another in the table.

    Args:
        root: folder that paths begin from.
        samples: before their corrections.
        corrected: after them.
        given: path and label of each row of the table; images that it lacks stay as they are.
        why: of each line.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for path, label in given:
        wanted[path].add(label)
    old: dict[str, set[str]] = defaultdict(set)
    for path, label in _rows_of(Samples.of(samples), ((path, "") for path in wanted)):
        old[path].add(label)
    found = []
    for path in old.keys() & wanted.keys():
        gone, new = old[path] - wanted[path], wanted[path] - old[path]
        if len(gone) == len(new) == 1:
            line = LabelCorrection(path=path, old=gone.pop(), new=new.pop(), action="relabel", why=why)
            made = corrected.applied.get(line.sample)
            if made is None or (made.action, made.new) != (line.action, line.new):
                found.append(line)
    found += [
        LabelCorrection(path=line.path, old=line.old, action="keep", why=why)
        for line in corrected.applied.values()
        if line.action == "relabel" and line.old in wanted[line.path] and line.new not in wanted[line.path]
    ]
    return tuple(replace(line, sha256=sha256(root / line.path)) for line in sorted(found, key=lambda line: line.sample))
