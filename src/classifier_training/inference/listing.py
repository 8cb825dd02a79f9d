"""A walk through a source, in a thread, while the first of its images are read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from classifier_training.core.columns import Texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from classifier_training.data.accounting import FolderFiles

WALK_SECONDS = 1
"""How long the first image waits for the walk through all of them."""

CHUNK = 1024
"""Most names that are handed over together."""


class Listing:
    """Names of images, which a thread finds while the first of them are read. A source is walked through once.

    Args:
        walk: calls a function with the name of each image, and why it cannot be read, if that is so; returns the count
            of all files.
    """

    def __init__(self, walk: Callable[[Callable[[str, str | None], None]], FolderFiles]) -> None:
        self._walk = walk
        self._chunks: list[Texts] = []
        self._number = 0
        self._errors: dict[int, str] = {}
        self._pending: list[str] = []
        self._num_pending = 1
        self._grown = threading.Condition()
        self._files: FolderFiles | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        self._start()
        place = begin = 0
        while True:
            with self._grown:
                while len(self._chunks) <= place and not self._has_ended:
                    self._grown.wait()
            if len(self._chunks) <= place:
                self.files()
                return
            names = self._chunks[place]
            for number, name in enumerate(names, begin):
                yield name, self._errors.get(number)
            place, begin = place + 1, begin + len(names)

    def count(self) -> int | None:
        """How many images there are; None until the walk has ended."""
        self._start()
        return self._number if self._has_ended else None

    def files(self) -> FolderFiles:
        """Count every file: images, which are read, and the others by kind and ending."""
        self._start()
        with self._grown:
            self._grown.wait_for(lambda: self._has_ended)
        if self._failure is not None:
            raise self._failure
        assert self._files is not None
        return self._files

    @property
    def _has_ended(self) -> bool:
        return self._files is not None or self._failure is not None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="walk", daemon=True)
            self._thread.start()
            # So that what a small folder has is said before anything else.
            self._thread.join(WALK_SECONDS)

    def _run(self) -> None:
        files, failure = None, None
        try:
            files = self._walk(self._add)
            if self._number or self._pending:
                files.log()
        except BaseException as error:  # noqa: BLE001 - raised again where the names are read
            failure = error
        with self._grown:
            self._publish()
            self._files, self._failure = files, failure
            self._grown.notify_all()

    def _add(self, name: str, error: str | None = None) -> None:
        if error is not None:
            self._errors[self._number + len(self._pending)] = error
        self._pending.append(name)
        if len(self._pending) >= self._num_pending:
            with self._grown:
                self._publish()
                self._grown.notify_all()
            self._num_pending = min(2 * self._num_pending, CHUNK)

    def _publish(self) -> None:
        if self._pending:
            self._chunks.append(Texts.of(self._pending))
            self._number += len(self._pending)
            self._pending.clear()
