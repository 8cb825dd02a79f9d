"""One writer a run folder: a lock that the kernel lets go of when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier_training.core.run_dir import RunDir

HELD = (errno.EACCES, errno.EAGAIN)

_own: set[str] = set()
"""Folders that this process writes to: the kernel's lock is of a process, and would let it in twice."""


@contextmanager
def locked(run_dir: RunDir) -> Iterator[None]:
    """Be the only one that writes to a run folder.

    It is a record lock, which processes that are forked do not inherit: workers that outlive their parent by a moment
    do not keep the next start out.

    Raises:
        UserError: when another process does, naming it; or the folder cannot be written to.
    """
    path = run_dir.path.resolve() / ".lock"
    if str(path) in _own:
        raise _taken(run_dir, os.getpid())
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise UserError(
            f"{run_dir.path}: cannot be written to ({error.strerror})",
            "a run folder that this program may write to",
            "mend its permissions, or go on with a copy of it",
        ) from error
    try:
        _take(descriptor, run_dir)
        _own.add(str(path))
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            _own.discard(str(path))
    finally:
        os.close(descriptor)


def _take(descriptor: int, run_dir: RunDir) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            raise UserError(
                f"{run_dir.path}: its file system has no locks ({error.strerror})",
                "a file system that can keep two writers apart",
                "output=/some/folder on a local disk",
            ) from error
        said = os.pread(descriptor, 20, 0).strip()
        raise _taken(run_dir, int(said) if said.isdigit() else None) from error


def _taken(run_dir: RunDir, pid: int | None) -> UserError:
    return UserError(
        f"{run_dir.path}: process {pid or 'of unknown number'} is writing to this run",
        "one writer a run",
        "wait for it, or end it" + (f": kill {pid}" if pid else ""),
    )
