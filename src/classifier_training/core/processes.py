"""Several processes: locks between them, which are released when a process exits, and the ranks that train together."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir

log = logging.getLogger(__name__)

HOLDER_SECONDS, HOLDER_TRIES = 1.0, 50
"""How long to wait for the number of the process that holds a lock."""


@contextmanager
def work_in(run: RunDir) -> Iterator[None]:
    """Be the only one that works in a run's folder, and keep others from clearing it away.

    Raises:
        UserError: when another process is at work there, naming it; or the folder cannot be written to.
    """
    try:
        descriptor = _open(run.lock)
    except OSError as error:
        raise UserError(
            f"{run.path}: cannot be written to ({error.strerror})",
            "a run folder that this program may write to",
            "fix its permissions, or go on with a copy of it",
        ) from error
    try:
        try:
            if not _take(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                raise _taken(run, _holder(descriptor))
        except OSError as error:
            # Some network disks have no locks. Training is not refused there; a clean-up waits for an idle hour.
            log.warning("%s: cannot be locked (%s)", run.path, error.strerror)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        _close(descriptor)


def _holder(descriptor: int) -> int | None:
    """Read who holds the lock; one that has just taken it may not have said so yet, and one before it be dead."""
    for _ in range(HOLDER_TRIES):
        said = os.pread(descriptor, 20, 0).strip()
        if said.isdigit() and _is_alive(int(said)):
            return int(said)
        time.sleep(HOLDER_SECONDS / HOLDER_TRIES)
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _taken(run: RunDir, pid: int | None) -> UserError:
    return UserError(
        f"{run.path}: process {pid or 'of unknown number'} is writing to this run",
        "one writer a run",
        "wait for it, or end it" + (f": kill {pid}" if pid else ""),
    )


@contextmanager
def hold(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file, made when it is missing.

    Args:
        path: of the file.
        shared: whether others may hold it in the same way.
        wait: whether to wait for whoever holds it otherwise.

    Yields:
        Whether it is held now.

    Raises:
        OSError: when the file cannot be made or written to.
    """
    descriptor = _open(path)
    try:
        yield _take(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    finally:
        _close(descriptor)


def _take(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; one that does not exist is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """Return the number of the process that holds the lock of a file; None where nobody does, or it is not known."""
    if not is_held(path):
        return None
    said = path.read_text(encoding="utf-8", errors="replace").strip()
    return int(said) if said.isdecimal() and _is_alive(int(said)) else None


_descriptors: set[int] = set()


def _open(path: Path) -> int:
    _let_go_when_forked()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    _descriptors.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    if descriptor not in _descriptors:
        return  # a forked process has let go of it already, and the number may be another file's there
    _descriptors.discard(descriptor)
    # A process that was forked a moment ago may still have it open, and closing lets go only with the last.
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@functools.cache
def _let_go_when_forked() -> None:
    """Keep loader processes, which may outlive us by a moment, from keeping the next start out."""
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


FOLLOWS_VARIABLE = "CLASSIFIER_TRAINING_FOLLOWS"

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """A part of every batch: all of it, unless there are several processes.

    Args:
        rank: number of this process; 0 leads, and alone writes.
        num_ranks: processes that train together.
    """

    rank: int = 0
    num_ranks: int = 1

    def of(self, keys: list[T]) -> list[T]:
        """Return this process's part of a batch's keys; the parts' sizes differ by one at the most."""
        return keys[self.rank :: self.num_ranks]


@dataclass(frozen=True)
class Follower:
    """What a process is told by the one that leads it.

    Args:
        rank: its number, from 1.
        num_ranks: processes that train together.
        leader: process number of rank 0.
        port: where they meet on this machine.
        checkpoint: to go on from; None for the beginning.
    """

    rank: int
    num_ranks: int
    leader: int
    port: int
    checkpoint: str | None

    def environment(self) -> dict[str, str]:
        """Return the variable by which a process is made this one."""
        return {FOLLOWS_VARIABLE: json.dumps(asdict(self))}


def following() -> Follower | None:
    """Return what this process was told, when another one leads it."""
    told = os.environ.get(FOLLOWS_VARIABLE)
    return Follower(**json.loads(told)) if told else None


def own_share(num_ranks: int) -> Share:
    """Return this process's part of every batch, of so many."""
    told = following()
    return Share(told.rank if told else 0, num_ranks)
