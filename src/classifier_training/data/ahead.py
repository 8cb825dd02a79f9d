"""Having the next items made while this one is used."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Item = TypeVar("Item")

DEPTH = 2
POLL_SECONDS = 0.1


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, which a thread makes up to two ahead; its error is raised in its place."""
    waiting: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(DEPTH)
    stopped = threading.Event()

    def put(value: tuple[Item] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(value, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            break

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            put(error)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while (found := waiting.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        stopped.set()
        thread.join()
