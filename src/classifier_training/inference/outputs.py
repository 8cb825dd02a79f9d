"""`output=`: one file in a format told by its ending, or a folder with a JSON file for each image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import atomic_path
from classifier_training.inference.formats import FORMATS, import_pyarrow, to_json, write_csv
from classifier_training.inference.part import PartFile, unwritable
from classifier_training.inference.sorting import fit_file_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from classifier_training.inference.rows import Row
    from classifier_training.inference.sources import Item


class Output:
    """Where rows go; before `finish` they lie in a hidden part file, from which an interrupted run goes on.

    Args:
        output: as the user wrote it: a file, a folder, or None for nowhere.
        settings: all that the rows depend on, as plain values.
        probabilities: the class names when rows have probabilities, else None.
        csv_safe: write a CSV file so that no cell is a formula to a spreadsheet.

    Raises:
        UserError: for an ending that is no format, a place that cannot be written to, or `csv_safe` without a CSV file.
    """

    def __init__(
        self,
        output: str | None,
        *,
        settings: Mapping[str, Any],
        probabilities: Sequence[str] | None,
        csv_safe: bool = False,
    ) -> None:
        self.path = None if output is None else Path(output).expanduser()
        if csv_safe and (self.path is None or self.path.suffix.lower() != ".csv"):
            raise UserError(
                "csv_safe=true has no effect" + (" without output" if output is None else f" on output={output}"),
                "a CSV file to write",
                "output=answers.csv",
            )
        self._csv_safe = csv_safe
        self._folder = self.path if self.path is not None and is_folder(output or "") else None
        self._probabilities = probabilities
        self._part: PartFile | None = None
        if self.path is None:
            return
        part = self.path / ".predictions.part" if self._folder else self.path.with_name(f".{self.path.name}.part")
        self._part = PartFile(part, self.path, settings)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._part is not None:
            self._part.close()

    @property
    def part(self) -> Path | None:
        """Where unfinished rows lie."""
        return None if self._part is None else self._part.path

    def go_on(self, items: Iterable[Item]) -> int:
        """Return how many of the source's first items an interrupted run has done."""
        return 0 if self._part is None else self._part.go_on(items)

    def rows(self) -> Iterator[Row]:
        """Read what has been written so far."""
        return iter(()) if self._part is None else self._part.rows()

    def add(self, item: Item, row: Row) -> None:
        """Take the row of an item."""
        if self._part is None:
            return
        try:
            if self._folder is not None:
                self._write_one(self._folder / f"{item.name}.json", row)
            self._part.append(row)
        except OSError as error:
            raise unwritable(self.path or self._part.path, error) from error

    def finish(self) -> None:
        """Make the output of the part file, in place of an older one.

        Raises:
            UserError: when the system refuses.
        """
        if self._part is None or self.path is None:
            return
        try:
            if self._folder is None:
                with atomic_path(self.path) as temporary:
                    if self._csv_safe:
                        write_csv(self._part.rows(), temporary, self._probabilities, is_safe=True)
                    else:
                        FORMATS[self.path.suffix.lower()](self._part.rows(), temporary, self._probabilities)
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
            f"output={path.with_suffix('.json')}",
        )
    if suffix == ".parquet":
        import_pyarrow()
    return False
