"""Several processes: flock-based locks, released when the process exits, and the ranks of distributed training."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
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


MAX_REMOVED = 20
"""How often a lock is taken again whose file was removed meanwhile; some file systems may not number files reliably."""


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
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    for number in range(1, MAX_REMOVED + 1):
        descriptor = _open(path)
        try:
            is_taken = _take_where_possible(descriptor, how)
            # Whoever held it may have removed the file: nobody else would see a lock of a file without a name.
            if not is_taken or _is_named(descriptor, path) or number == MAX_REMOVED:
                yield is_taken
                return
        finally:
            _close(descriptor)


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer."""


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _take(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def _take_where_possible(descriptor: int, how: int) -> bool:
    """Take a lock; on file systems that are mounted without locks nobody knows of others, and it counts as taken."""
    try:
        return _take(descriptor, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; False if the file does not exist."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _take_where_possible(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
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
class Rank:
    """This process among those that torchrun started for one run; alone by default.

    Args:
        rank: of this process among all.
        num_ranks: number of processes of all nodes.
        local_rank: of this process among those of its node.
        num_local: number of processes of its node.
        node: number of its node.
    """

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    num_local: int = 1
    node: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether there is this process alone."""
        return self.num_ranks == 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that decides and writes."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """This process's part of every batch."""
        return Share(self.rank, self.num_ranks)


def is_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def process_rank() -> Rank:
    """Return which process this is, as torchrun says in the environment."""
    if not is_torchrun():
        return Rank()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    return Rank(*(int(os.environ[name]) for name in names))
