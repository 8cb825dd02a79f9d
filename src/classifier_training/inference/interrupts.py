"""Signals that end a prediction in words."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier_training.core.errors import InterruptedRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@contextmanager
def told_interrupts(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into an error that says how to go on.

    Args:
        remedy: what to do, asked for when it has happened.

    Raises:
        InterruptedRunError: with exit code 130 for Ctrl-C and 143 for SIGTERM.
    """

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise InterruptedRunError(number, remedy())

    # Python lets only the main thread meet signals; in another one they stay the program's own business.
    heard = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
