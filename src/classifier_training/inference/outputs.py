"""`output=`: one file in a format told by its ending, or a folder with a JSON file for each image.

An unfinished output grows in a hidden part file, from which an interrupted run resumes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.storage.places import is_remote, new_file, path_of
from classifier_training.inference.rows import FORMATS, Extras, import_pyarrow, to_json, valid_text, write_csv
from classifier_training.inference.sorting import fit_file_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from classifier_training.inference.parts import PartFolder
    from classifier_training.inference.rows import Row
    from classifier_training.inference.sources import Item
    from classifier_training.inference.submission import Filled, Form

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

    def resume(self, items: Iterable[Item], *, batch_size: int = 1) -> int:
        """Keep the rows of an interrupted run that are still valid; returns how many there are.

        They are valid when the settings are the same and the images are the first of the source, in the same order.
        Otherwise the file starts empty. Only whole batches are kept, so that the next ones are those of a run that is
        not interrupted.
        """
        changed = self._changed_settings()
        if changed is None:
            self._restart()
            return 0
        if changed:
            log.warning(
                "%s was made with other settings (%s): starting from the first image", self.path, ", ".join(changed)
            )
            self._restart()
            return 0
        number, end = 0, self._first_row()
        remaining = iter(items)
        for row, after in self._read(end):
            item = next(remaining, None)
            if item is None or valid_text(item.path) != row["path"]:
                log.warning("%s is about other images: starting from the first image", self.path)
                self._restart()
                return 0
            number += 1
            end = after if number % batch_size == 0 else end
        # The last line may have been cut short.
        self._file.truncate(end)
        return number - number % batch_size

    def rows(self) -> Iterator[Row]:
        """Read the rows from the first on."""
        self._file.flush()
        return (row for row, _ in self._read(self._first_row()))

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows."""
        self._file.write("".join(f"{to_json(row)}\n" for row in rows).encode())
        self._file.flush()

    def copy_lines(self, path: Path) -> None:
        """Write the rows as they are, one a line."""
        self._file.flush()
        with self.path.open("rb") as source, path.open("wb") as target:
            source.seek(self._first_row())
            shutil.copyfileobj(source, target)

    def close(self) -> None:
        """Release the file for another run."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file: the output is finished."""
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
    """Return the error for an output that cannot be written."""
    return UserError(
        f"output={valid_text(os.fspath(path))}: cannot be written ({error.strerror})",
        "a file in a folder that may be written to, on a disk with space left",
        "output=/some/folder/predictions.json",
    )


class Output:
    """Where rows go; before `finish` they are in a hidden part file, from which an interrupted run resumes.

    Args:
        output: as the user wrote it: a file, a folder, or None for nowhere.
        settings: all that the rows depend on, as plain values.
        probabilities: the class names when rows have probabilities, else None.
        label_set: whether rows have label sets.
        csv_safe: write a CSV file so that a spreadsheet runs no cell as a formula.
        form: other columns of a CSV file.
        part: where the rows are before `finish`, if other processes write them; else the hidden file is made.

    Attributes:
        filled: what `finish` filled the form with.

    Raises:
        UserError: for an ending that is no format, a place that cannot be written to, or `csv_safe` or `form` without a
            CSV file.
    """

    def __init__(
        self,
        output: str | None,
        *,
        settings: Mapping[str, Any],
        probabilities: Sequence[str] | None,
        label_set: bool = False,
        csv_safe: bool = False,
        form: Form | None = None,
        part: PartFolder | None = None,
    ) -> None:
        self.path = None if output is None else path_of(output)
        for is_asked, typed in (
            (csv_safe, "csv_safe=true has no effect"),
            (form is not None, "columns= has no effect"),
        ):
            if is_asked and (self.path is None or self.path.suffix.lower() != ".csv"):
                raise UserError(
                    typed + (" without output" if output is None else f" on output={output}"),
                    "a CSV file to write",
                    "output=predictions.csv",
                )
        self._csv_safe, self._form = csv_safe, form
        self.filled: Filled | None = None
        self._folder = self.path if self.path is not None and is_folder(output or "") else None
        self._extras = Extras(probabilities, label_set)
        self._part: PartFile | PartFolder | None = part
        if self.path is None or part is not None:
            return
        if is_remote(self.path):
            raise UserError(
                f"output={output}: predict on one machine writes to its disk",
                "a file or folder",
                "output=/some/folder/   or launcher=ray, which writes to a store",
            )
        hidden = self.path / ".predictions.part" if self._folder else self.path.with_name(f".{self.path.name}.part")
        self._part = PartFile(hidden, self.path, settings)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._part is not None:
            self._part.close()

    @property
    def part(self) -> Path | None:
        """The file of unfinished rows."""
        return None if self._part is None else self._part.path

    def resume(self, items: Iterable[Item], *, batch_size: int = 1) -> int:
        """Return how many of the source's first items an interrupted run has done, in whole batches."""
        return self._part.resume(items, batch_size=batch_size) if isinstance(self._part, PartFile) else 0

    def rows(self) -> Iterator[Row]:
        """Read what has been written so far."""
        return iter(()) if self._part is None else self._part.rows()

    def add(self, items: Sequence[Item], rows: Sequence[Row]) -> None:
        """Write the rows of items."""
        if not isinstance(self._part, PartFile):
            return
        try:
            if self._folder is not None:
                for item, row in zip(items, rows, strict=True):
                    self._write_one(self._folder / f"{item.name}.json", row)
            self._part.append(rows)
        except OSError as error:
            raise unwritable(self.path or self._part.path, error) from error

    def finish(self) -> None:
        """Write the output from the part file; an older output is replaced.

        Raises:
            UserError: when it cannot be written.
        """
        if self._part is None or self.path is None:
            return
        try:
            if self._folder is None:
                with new_file(str(self.path)) as temporary:
                    if self._form is not None:
                        self.filled = self._form.write(self._part.rows(), temporary, is_safe=self._csv_safe)
                    elif self._csv_safe:
                        write_csv(self._part.rows(), temporary, self._extras, is_safe=True)
                    elif self.path.suffix.lower() == ".jsonl":
                        self._part.copy_lines(temporary)
                    else:
                        FORMATS[self.path.suffix.lower()](self._part.rows(), temporary, self._extras)
            self._part.remove()
        except OSError as error:
            raise unwritable(self.path, error) from error

    @staticmethod
    def _write_one(path: Path, row: Row) -> None:
        path = path.with_name(fit_file_name(path.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(to_json(row) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def is_folder(output: str) -> bool:
    """Whether an output is a folder: it is one already, its name ends in a slash, or has no ending.

    Raises:
        UserError: for an ending that is no format, or one whose library is not installed.
    """
    path = Path(output).expanduser()
    suffix = path.suffix.lower()
    if output.endswith("/") or path.is_dir() or not suffix:
        return True
    if suffix not in FORMATS:
        raise UserError(
            f"output={output}: {path.suffix} is no format that predict writes",
            f"a file ending in {', '.join(FORMATS)}, or a folder (a name that ends in /)",
            f"output={output.removesuffix(path.suffix)}.json",
        )
    if suffix == ".parquet":
        import_pyarrow()
    return False
