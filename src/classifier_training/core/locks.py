"""Locks between processes: the kernel's, so that whoever dies lets go."""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from classifier_training.core.run_dir import RunDir

log = logging.getLogger(__name__)


@contextmanager
def work_in(run: RunDir) -> Iterator[None]:
    """Keep other processes from working in a run's folder, and from clearing it away.

    Raises:
        UserError: when one is at work there.
    """
    with ExitStack() as stack:
        try:
            free = stack.enter_context(try_hold(run.lock))
        except OSError as error:
            # Some network disks have no locks. Training is not refused there; a clean-up waits for an idle hour.
            log.warning("%s: cannot be locked (%s)", run.path, error.strerror)
            free = True
        if not free:
            raise UserError(
                f"{run.path}: another process is at work there",
                "a run that nobody works on",
                "wait for it, or end it; a run of its own needs no resume=",
            )
        yield


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made when it is missing; wait for whoever holds it.

    Raises:
        OSError: when the file cannot be made or written to.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_hold(path: Path) -> Iterator[bool]:
    """Hold the lock of a file if nobody does; gives whether it is held now.

    Raises:
        OSError: when the file cannot be made or written to.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; one that does not exist is held by nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
