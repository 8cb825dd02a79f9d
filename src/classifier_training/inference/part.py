"""The file that an unfinished output grows in, so that an interrupted run can go on."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.inference.formats import to_json
from classifier_training.inference.rows import valid_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from classifier_training.inference.rows import Row
    from classifier_training.inference.sources import Item

log = logging.getLogger(__name__)


class PartFile:
    """Rows as JSON lines, below a line with the settings that they were made with.

    Args:
        path: of the file.
        output: what it will become, for messages.
        settings: all that the rows depend on, as plain values.

    Raises:
        UserError: when the file cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, output: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._settings = json.loads(to_json(settings))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise unwritable(output, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise UserError(
                f"{path}: another process is writing this output", "an output of its own for each", "output=/other/file"
            ) from error

    def go_on(self, items: Iterable[Item]) -> int:
        """Keep the rows of an interrupted run that are still right; returns how many there are.

        They are when their settings are the same and their images are the first of the source, in the same order.
        Otherwise, and where there is nothing to keep, the file starts anew.
        """
        changed = self._changed_settings()
        if changed is None:
            self._restart()
            return 0
        if changed:
            log.warning("%s was made with other settings (%s): starting anew", self.path, ", ".join(changed))
            self._restart()
            return 0
        number, end = 0, self._first_row()
        remaining = iter(items)
        for row, after in self._read(end):
            item = next(remaining, None)
            if item is None or valid_text(item.path) != row["path"]:
                log.warning("%s is about other images: starting anew", self.path)
                self._restart()
                return 0
            number, end = number + 1, after
        # The last line may have been cut short.
        self._file.truncate(end)
        return number

    def rows(self) -> Iterator[Row]:
        """Read the rows from the first on."""
        self._file.flush()
        return (row for row, _ in self._read(self._first_row()))

    def append(self, row: Row) -> None:
        """Add a row."""
        self._file.write(to_json(row).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Leave the file to another run."""
        self._file.close()

    def remove(self) -> None:
        """Take the file away: the output is finished."""
        self.path.unlink()
        self._file.close()

    def _changed_settings(self) -> list[str] | None:
        """Names of the settings that are not those of the file; None when it has none."""
        self._file.seek(0)
        try:
            found = json.loads(self._file.readline())["settings"]
            names = [*self._settings, *found]
        except (ValueError, KeyError, TypeError):
            return None
        return [name for name in dict.fromkeys(names) if self._settings.get(name) != found.get(name)]

    def _restart(self) -> None:
        self._file.truncate(0)
        self._file.write(to_json({"settings": self._settings}).encode() + b"\n")
        self._file.flush()

    def _first_row(self) -> int:
        self._file.seek(0)
        return len(self._file.readline())

    def _read(self, start: int) -> Iterator[tuple[Row, int]]:
        """Yield each whole row from an offset on, with the offset behind it."""
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                start += len(line)
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None
                if row is None:
                    return
                yield row, start


def unwritable(path: Path, error: OSError) -> UserError:
    """Return the error for an output that the system refuses."""
    return UserError(
        f"output={valid_text(os.fspath(path))}: cannot be written ({error.strerror})",
        "a file in a folder that may be written to, on a disk with space left",
        "output=/some/folder/answers.json",
    )
