"""The log of a server: a JSON object a line, on standard output, written by a thread of its own."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from classifier_training.core.runtime import LOGGED
from classifier_training.core.secrets import mask_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CAPACITY = 10_000
"""Lines that wait for whoever reads standard output; more are dropped and counted."""


class JsonLines(logging.Formatter):
    """Formats a message, and the `fields` of its `extra`, as JSON on one line, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": mask_text(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            values["traceback"] = mask_text(self.formatException(record.exc_info))
        return json.dumps(values, ensure_ascii=True, default=str)


class _Lines(logging.Handler):
    """Gives lines to a thread, so that a reader who takes none holds up nobody."""

    def __init__(self, dropped: Callable[[], None]) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._dropped = dropped
        self._warned: set[str] = set()
        self._queue: queue.Queue[str | None] = queue.Queue(CAPACITY)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line soon."""
        if hasattr(record, "detail"):
            return
        if record.levelno == logging.WARNING:
            # Looking for a new run says of a damaged one, again and again, that it was left out.
            if (words := record.getMessage()) in self._warned:
                return
            if len(self._warned) < CAPACITY:
                self._warned.add(words)
        try:
            self._queue.put_nowait(self.format(record))
        except queue.Full:
            self._dropped()

    def finish(self) -> None:
        """Write what waits, for a second at most."""
        try:
            self._queue.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(1)

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                sys.stdout.write(line + "\n")
                if self._queue.empty():
                    sys.stdout.flush()
            except (OSError, ValueError):
                # Nobody reads any more.
                self._dropped()


@contextmanager
def json_log(*, dropped: Callable[[], None]) -> Iterator[None]:
    """Write all messages of the program as JSON on standard output in this block, in place of what the screen shows.

    Args:
        dropped: called for each line that is lost because nobody takes them.
    """
    lines = _Lines(dropped)
    before = {logger: logger.handlers for logger in map(logging.getLogger, (*LOGGED, "uvicorn"))}
    for logger in before:
        logger.handlers = [lines]
    try:
        yield
    finally:
        for logger, handlers in before.items():
            logger.handlers = handlers
        lines.finish()
