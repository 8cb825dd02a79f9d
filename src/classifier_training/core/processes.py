"""Several processes: flock-based locks, released when the process exits, and the ranks of distributed training."""

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
"""Longest time to wait for the process id of a lock's holder, and number of tries in it."""


@contextmanager
def work_in(run: RunDir) -> Iterator[None]:
    """Lock a run's folder, so that no other process writes to it or removes it.

    Raises:
        UserError: when another process holds the lock, naming it; or the folder cannot be written to.
    """
    try:
        descriptor = _open(run.lock)
    except OSError as error:
        raise UserError(
            f"{run.path}: cannot be written to ({error.strerror})",
            "a run folder that this program may write to",
            "fix its permissions, or use a copy of it",
        ) from error
    try:
        try:
            if not _take(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                raise _taken(run, _holder(descriptor))
        except OSError as error:
            # Some network disks have no locks. Training is allowed there; a clean-up waits for an hour without changes.
            log.warning("%s: cannot be locked (%s)", run.path, error.strerror)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        _close(descriptor)


def _holder(descriptor: int) -> int | None:
    """Return the process id of the lock's holder, which may not be written yet right after it took the lock."""
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
        "one writing process per run",
        "wait for it, or end it" + (f": kill {pid}" if pid else ""),
    )


@contextmanager
def hold(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file, which is created if it is missing.

    Args:
        path: of the file.
        shared: whether others may hold a shared lock, too.
        wait: whether to wait until it is free.

    Yields:
        Whether the lock was acquired.

    Raises:
        OSError: when the file cannot be created or written to.
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
    """Whether a process holds the lock of a file; False if the file does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """Return the id of the process that holds the lock of a file; None if there is none, or it is unknown."""
    if not is_held(path):
        return None
    said = path.read_text(encoding="utf-8", errors="replace").strip()
    return int(said) if said.isdecimal() and _is_alive(int(said)) else None


_descriptors: set[int] = set()


def _open(path: Path) -> int:
    _release_when_forked()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    _descriptors.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    if descriptor not in _descriptors:
        return  # a forked process has closed it already, and the number may belong to another file
    _descriptors.discard(descriptor)
    # A process forked a moment ago may still have it open, and closing releases the lock only with the last one.
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@functools.cache
def _release_when_forked() -> None:
    """Release locks in forked workers, which may outlive this process for a moment and would block the next start."""
    os.register_at_fork(after_in_child=_release)


def _release() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


FOLLOWS_VARIABLE = "CLASSIFIER_TRAINING_FOLLOWS"

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process's part of every batch in distributed training; the whole batch with one process.

    Args:
        rank: of this process; only rank 0 writes files.
        num_ranks: number of processes.
    """

    rank: int = 0
    num_ranks: int = 1

    def of(self, keys: list[T]) -> list[T]:
        """Return this process's part of a batch's keys; the sizes of the parts differ by at most one."""
        return keys[self.rank :: self.num_ranks]


@dataclass(frozen=True)
class Follower:
    """What rank 0 passes to another rank.

    Args:
        rank: of the process, from 1.
        num_ranks: number of processes.
        leader: process id of rank 0.
        port: of the rendezvous on this machine.
        checkpoint: to resume from; None at the start.
    """

    rank: int
    num_ranks: int
    leader: int
    port: int
    checkpoint: str | None

    def environment(self) -> dict[str, str]:
        """Return the environment variable that makes a process this rank."""
        return {FOLLOWS_VARIABLE: json.dumps(asdict(self))}


def following() -> Follower | None:
    """Return what rank 0 passed to this process; None if this process is rank 0."""
    passed = os.environ.get(FOLLOWS_VARIABLE)
    return Follower(**json.loads(passed)) if passed else None


def own_share(num_ranks: int) -> Share:
    """Return this process's part of every batch among `num_ranks` processes."""
    follower = following()
    return Share(follower.rank if follower else 0, num_ranks)
