"""Deletion of failed runs, old versions and old logs."""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier_training.core.processes import hold, is_held
from classifier_training.core.run_dir import RunDir
from classifier_training.registry.record import DAMAGED, FINISHED, UNFINISHED, RunRecord
from classifier_training.registry.references import present_holders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier_training.registry.scan import Registry

IDLE_SECONDS = 3600.0
"""An unfinished run that wrote something more recently than this is left alone, locked or not: a machine that shares
the disk may hold locks that are not seen here."""

LOGS = ("train.log", "tensorboard", "wandb")
"""Log files and folders of a run."""

STUDY, STUDY_LOGS = "tuning.json", ("journal.log", "job.log")
"""A file of each finished search of `tune`, and its log files."""

TRASH_SUFFIX = ".removing"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A path to delete.

    Args:
        path: run folder, log file or log folder.
        run: the run folder that it is, or is in.
        reason: why it is deleted.
        size_bytes: disk space that this frees.
        unfinished: whether the reason is that the run did not finish.
    """

    path: Path
    run: Path
    reason: str
    size_bytes: int
    unfinished: bool = False


def clean_up(
    registry: Registry, *, failed: bool, keep: int | None, log_days: float | None, apply: bool
) -> tuple[list[Removal], list[str], int]:
    """Delete runs and logs, or only list them.

    Args:
        registry: of all runs.
        failed: runs that began, did not finish and are not running, and damaged ones.
        keep: newest finished runs to keep of each name, model and data.
        log_days: delete logs of finished runs and searches that are older than this.
        apply: delete them.

    Returns:
        What is, or would be, deleted; what is kept although it matches, with the reason; and the freed bytes.
    """
    with registry.locked():
        registry.refresh()
        removals, spared = _plan(registry, failed=failed, keep=keep, log_days=log_days)
        if not apply:
            return removals, spared, 0
        freed = 0
        for removal in removals:
            try:
                if _remove(removal):
                    freed += removal.size_bytes
                else:
                    spared.append(f"{removal.path}: a process is or was at work there")
            except FileNotFoundError:
                spared.append(f"{removal.path}: gone already")
            except OSError as error:
                spared.append(f"{removal.path}: {error.strerror}")
        registry.refresh()
    return removals, spared, freed


def _plan(
    registry: Registry, *, failed: bool, keep: int | None, log_days: float | None
) -> tuple[list[Removal], list[str]]:
    held = {record.folder for record in present_holders(registry.runs.values()).values()}
    removals, spared = [], []
    for record, reason in _candidates(registry, failed=failed, keep=keep):
        folder = registry.folder(record)
        if record.folder in held:
            spared.append(f"{folder}: promoted")
        elif is_held(RunDir(folder).lock):
            spared.append(f"{folder}: a process is at work there")
        elif record.status == DAMAGED and _has_weights(RunDir(folder)):
            spared.append(f"{folder}: damaged ({record.problem}), but its weights are there; delete it by hand")
        elif record.status in (UNFINISHED, DAMAGED) and (idle := time.time() - _last_write(folder)) < IDLE_SECONDS:
            spared.append(f"{folder}: wrote {idle:.0f} s ago; it may still be running on another machine")
        else:
            removals.append(
                Removal(
                    path=folder,
                    run=folder,
                    reason=reason,
                    size_bytes=_size(folder),
                    unfinished=record.status == UNFINISHED,
                )
            )
    gone = {removal.path for removal in removals}
    removals += [
        Removal(path=path, run=path, reason="an earlier clean-up was interrupted", size_bytes=_size(path))
        for path in _left_over(registry.root)
    ]
    if log_days is not None:
        removals += _old_logs(registry, held, gone, log_days)
        removals += _old_study_logs(registry.root, log_days)
    return removals, spared


def _has_weights(run: RunDir) -> bool:
    """Whether a run was trained to its end and holds a network, by whatever else is lost."""
    return run.result.exists() and any(path.exists() for path in (run.onnx, run.weights, run.best_checkpoint))


def _remove(removal: Removal) -> bool:
    """Delete a path; returns False, without deleting it, if a process is working there."""
    if removal.path != removal.run:
        if (removal.run / STUDY).exists():
            # A search has no lock of a run.
            _delete(removal.path)
            return True
        with hold(RunDir(removal.run).lock, wait=False) as free:
            if free:
                _delete(removal.path)
            return free
    if removal.path.name.endswith(TRASH_SUFFIX):
        _delete(removal.path)
        return True
    with hold(RunDir(removal.run).lock, wait=False) as free:
        if not free or (removal.unfinished and RunDir(removal.run).result.exists()):
            return False
        # Renamed first, so that a partly deleted run is never found.
        trash = removal.path.with_name(f".{removal.path.name}{TRASH_SUFFIX}")
        removal.path.rename(trash)
        _delete(trash)
    return True


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        # Links inside are removed, and what they lead to is not.
        shutil.rmtree(path)


def _candidates(registry: Registry, *, failed: bool, keep: int | None) -> Iterator[tuple[RunRecord, str]]:
    records = sorted(registry.runs.values(), key=lambda record: (record.started, record.folder), reverse=True)
    if failed:
        for record in records:
            if record.status == UNFINISHED:
                yield record, "did not finish"
            elif record.status == DAMAGED:
                yield record, f"damaged: {record.problem}"
    if keep is not None:
        counts: dict[tuple[str, ...], int] = {}
        for record in records:
            if record.status == FINISHED:
                key = (record.title, record.model, record.data)
                counts[key] = counts.get(key, 0) + 1
                if counts[key] > keep:
                    yield record, f"older than the {keep} newest of {record.title} on {record.data}"


def _old_logs(registry: Registry, held: set[str], gone: set[Path], days: float) -> Iterator[Removal]:
    oldest = time.time() - days * 86_400
    for record in registry.runs.values():
        folder = registry.folder(record)
        if record.status != FINISHED or record.folder in held or folder in gone or is_held(RunDir(folder).lock):
            continue
        for name in LOGS:
            path = folder / name
            if os.path.lexists(path) and (changed := _last_write(path)) < oldest:
                age = (time.time() - changed) / 86_400
                yield Removal(path=path, run=folder, reason=f"a log of {age:.0f} days ago", size_bytes=_size(path))


def _old_study_logs(root: Path, days: float) -> Iterator[Removal]:
    """Find the logs of searches that have ended; what was found stands in other files and in the experiment."""
    oldest = time.time() - max(days * 86_400, IDLE_SECONDS)
    for folder, _, files in os.walk(root):
        if STUDY in files:
            for path in (Path(folder, name) for name in STUDY_LOGS if name in files):
                if (changed := _last_write(path)) < oldest:
                    age = (time.time() - changed) / 86_400
                    reason = f"a log of a search of {age:.0f} days ago"
                    yield Removal(path=path, run=path.parent, reason=reason, size_bytes=_size(path))


def _left_over(root: Path) -> Iterator[Path]:
    for folder, names, _ in os.walk(root):
        trash = [name for name in names if name.startswith(".") and name.endswith(TRASH_SUFFIX)]
        yield from (Path(folder, name) for name in trash)
        names[:] = [name for name in names if not name.startswith(".")]


def _walk(path: Path) -> Iterator[os.stat_result]:
    yield path.lstat()
    if path.is_dir() and not path.is_symlink():
        for folder, names, files in os.walk(path):
            for name in (*names, *files):
                # A run that another machine trains removes its temporary files.
                with suppress(FileNotFoundError):
                    yield Path(folder, name).lstat()


def _size(path: Path) -> int:
    # What the disk gives back: blocks, and nothing for a file that has another name elsewhere.
    return sum(found.st_blocks * 512 for found in _walk(path) if found.st_nlink == 1 or not stat.S_ISREG(found.st_mode))


def _last_write(path: Path) -> float:
    return max(found.st_mtime for found in _walk(path))
