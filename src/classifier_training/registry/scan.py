"""All runs below a folder, and the file that remembers them.

`training_registry.json` is a cache: it holds what was read from each run folder, with the times at which the folder
and its evaluation last changed. A folder whose times are the same is not opened. Without the file everything is read
again, and nothing is lost.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError
from classifier_training.core.processes import hold
from classifier_training.core.run_dir import RunDir, write_text
from classifier_training.registry.record import (
    FINISHED,
    RUN_FILES,
    Promotion,
    RunRecord,
    read_promotions,
    read_record,
    write_registration,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

CACHE_NAME, LOCK_NAME = "training_registry.json", ".training_registry.lock"
FORMAT = {"format": "classifier-training registry", "format_version": 1, "fields": list(RunRecord._fields)}
"""How the file begins; one that begins otherwise is of another program, or of another version of this one."""

SETTLED_NS = 2_000_000_000
"""A folder that changed less than this before it was read may change again at what its file system calls the same
time, so it is read again."""

Times = tuple[int, int]


class Registry:
    """The runs below a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs: dict[str, RunRecord] = {}
        self._times: dict[str, Times] = {}

    @classmethod
    def open(cls, root: Path) -> Registry:
        """Find all runs, number those that have none, and remember what was read.

        Raises:
            UserError: when there is no such folder.
        """
        registry = cls(root)
        if not root.is_dir():
            raise UserError(
                f"output={root}: there is no such folder",
                "the folder that runs were written to",
                "output=FOLDER, or make a run: classifier-training train",
            )
        changed = registry._load()
        changed |= registry._walk()
        try:
            if registry._lacks_numbers():
                with hold(root / LOCK_NAME):
                    # Another process may have numbered some in the meantime.
                    registry._walk()
                    registry._number()
                changed = True
            if changed:
                registry.save()
        except PermissionError as error:
            log.debug("%s cannot be written to, so nothing is remembered: %s", root, error)
        except OSError as error:
            # A read-only file system, or a full one: what was read is as true without being remembered.
            log.warning("%s: cannot be written (%s); the runs are read anew each time", root / CACHE_NAME, error)
        return registry

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the registry's lock: a `with` block in which no other process changes a registration.

        Raises:
            UserError: when the folder cannot be written to.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(self.root / LOCK_NAME))
            except OSError as error:
                raise UserError(
                    f"{self.root}: cannot be written to ({error.strerror})",
                    "a folder of runs that can be written to",
                    "fix the permissions, or work on a copy: output=…",
                ) from error
            yield

    def refresh(self) -> None:
        """Read again what has changed since."""
        if self._walk():
            self.save()

    def folder(self, record: RunRecord) -> Path:
        """Folder of a run."""
        return self.root / record.folder

    def save(self) -> None:
        """Write the cache."""
        now = time.time_ns()
        settled = {
            folder: [times, record]
            for folder, record in self.runs.items()
            if now - max(times := self._times[folder]) > SETTLED_NS
        }
        # Compact, for thousands of runs; in ASCII, since a folder's name may be bytes that are no text.
        write_text(self.root / CACHE_NAME, json.dumps({**FORMAT, "runs": settled}) + "\n")

    def _load(self) -> bool:
        """Read the cache; returns whether it must be written anew."""
        path = self.root / CACHE_NAME
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            for key, value in FORMAT.items():
                _demand(key, found[key], value)
            for folder, (times, values) in found["runs"].items():
                *rest, promotions = values
                record = RunRecord._make([*rest, tuple(Promotion(*item) for item in promotions)])
                self.runs[folder] = record._replace(folder=folder)
                self._times[folder] = (int(times[0]), int(times[1]))
        except FileNotFoundError:
            return True
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "%s was written by another version, or is damaged (%s); it is rebuilt from the run folders", path, error
            )
            self.runs.clear()
            self._times.clear()
            return True
        return False

    def _walk(self) -> bool:
        """Read what is new or has changed, forget what is gone; returns whether anything was different."""
        changed, present, now = False, set(), time.time_ns()
        for folder, path in run_folders(self.root, self.runs):
            times = _times(path)
            if times is None:
                continue
            if folder not in self.runs or self._times[folder] != times or now - max(times) < SETTLED_NS:
                names = _names(path)
                if names.isdisjoint(RUN_FILES):
                    continue
                record = read_record(Path(path), folder, names)
                changed |= record != self.runs.get(folder) or self._times[folder] != times
                self.runs[folder], self._times[folder] = record, times
            present.add(folder)
        for folder in self.runs.keys() - present:
            del self.runs[folder], self._times[folder]
            changed = True
        return changed

    def _lacks_numbers(self) -> bool:
        finished = [record for record in self.runs.values() if record.status == FINISHED]
        numbered = {(record.title, record.version) for record in finished if record.version is not None}
        return len(numbered) < len(finished)

    def _number(self) -> None:
        """Give each finished run that has none the next version of its title, and write it into its folder.

        A copy of a run has the version of the original, so the one that started later, or sorts later, gets another.
        """
        taken: dict[str, set[int]] = {}
        ordered = sorted(self.runs.values(), key=lambda record: (record.started, record.folder))
        finished = [record for record in ordered if record.status == FINISHED]
        waiting = []
        for record in finished:
            numbers = taken.setdefault(record.title, set())
            if record.version is None or record.version in numbers:
                waiting.append(record)
            else:
                numbers.add(record.version)
        for record in waiting:
            numbers = taken[record.title]
            version = max(numbers, default=0) + 1
            numbers.add(version)
            run = RunDir(self.folder(record))
            try:
                write_registration(
                    run, title=record.title, scope=record.scope, version=version, promotions=read_promotions(run)
                )
            except OSError as error:
                numbers.discard(version)
                log.warning("%s: has no version, since it cannot be written to (%s)", run.path, error.strerror)
                continue
            times = _times(str(run.path))
            if times is not None:
                self.runs[record.folder] = record._replace(version=version)
                self._times[record.folder] = times


def _demand(key: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ValueError(f"its {key} differ")


def run_folders(root: Path, known: Mapping[str, RunRecord] = MappingProxyType({})) -> Iterator[tuple[str, str]]:
    """Yield each folder that is or may be a run's, below `root` and as text; links are not followed.

    Args:
        root: folder of all runs.
        known: folders below it that need not be looked into.

    Raises:
        UserError: when `root` cannot be read.
    """
    waiting = [(str(root), "")]
    while waiting:
        path, prefix = waiting.pop()
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            if not prefix:
                raise UserError(
                    f"{root}: cannot be read ({error.strerror})", "a folder that can be read", "output=FOLDER"
                ) from error
            log.warning("%s: left out (%s)", path, error.strerror)
            continue
        if prefix and not RUN_FILES.isdisjoint(entry.name for entry in entries):
            yield prefix[:-1], path
            continue
        for entry in entries:
            if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
                continue
            relative = prefix + entry.name
            if relative in known:
                yield relative, entry.path
            else:
                waiting.append((entry.path, f"{relative}/"))


def _times(path: str) -> Times | None:
    """When a run folder and its evaluation last changed; None when it has gone."""
    try:
        own = os.stat(path).st_mtime_ns  # noqa: PTH116 - ten thousand of these are to take no time
    except OSError:
        return None
    try:
        return own, os.stat(path + "/evaluation").st_mtime_ns  # noqa: PTH116
    except OSError:
        return own, 0


def _names(path: str) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(path)}
    except OSError:
        return set()
