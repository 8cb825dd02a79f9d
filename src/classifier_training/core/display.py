"""Text for people: a progress bar, aligned columns, and tables as CSV and Markdown."""

from __future__ import annotations

import csv
import unicodedata
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from classifier_training.core.runtime import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


@contextmanager
def progress(words: str, *, total: Callable[[], int | None], done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yields a function that advances it by a number of items.

    Args:
        words: description of the task.
        total: returns the number of items, or None; called only if the bar is shown.
        done: items that are done already.
    """
    if not console().is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(words), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("", total=total(), completed=done)
        yield lambda number: bar.advance(task, number)


FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters that make a spreadsheet treat a cell as a formula; the last are full-width forms."""


def write_rows(
    file: IO[str], header: Sequence[str], rows: Iterable[Sequence[object]], *, is_safe: bool = False
) -> None:
    """Write a table as CSV, row by row.

    Args:
        file: opened with newline="".
        header: names of the columns.
        rows: their cells.
        is_safe: write texts so that no spreadsheet runs them as formulas, as OWASP advises: an apostrophe before a cell
            that begins like one, and quotation marks around every cell.
    """
    if not is_safe:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        return
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([_safe_cell(cell) for cell in header])
    writer.writerows([_safe_cell(cell) for cell in row] for row in rows)


def _safe_cell(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell


def align(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[str] = frozenset()) -> list[str]:
    """Return lines with columns of equal width.

    Args:
        header: names of the columns.
        rows: their texts.
        right: names of right-aligned columns, such as numbers.
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [
        "  ".join(
            text.rjust(width) if name in right else text.ljust(width)
            for text, width, name in zip(row, widths, header, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]


def shorten(text: str, length: int) -> str:
    """Cut a long text in the middle, because names often differ at their ends."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    begin, rest = text[: length - 1 - end], text[len(text) - end :]
    # A combining accent needs its letter.
    while rest and unicodedata.combining(rest[0]):
        rest = rest[1:]
    return f"{begin}…{rest}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; pipes in cells are escaped."""
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{'---|' * len(header)}", *lines[1:]]
