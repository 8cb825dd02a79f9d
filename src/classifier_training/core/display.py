"""Text for people: a progress bar, aligned columns, and tables as CSV and Markdown."""

from __future__ import annotations

import csv
import time
import unicodedata
from contextlib import contextmanager
from html import escape
from typing import IO, TYPE_CHECKING

from classifier_training.core.runtime import console, in_notebook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


MIN_SECONDS = 0.5
"""Between two changes of a notebook's bar: each is a message to the browser."""


class NotebookBar:
    """A bar below a notebook's cell, which is taken away at the end.

    Args:
        words: what is being done.
    """

    def __init__(self, words: str) -> None:
        from IPython.display import HTML, display

        self.words = words
        self._html = HTML
        self._handle = display(HTML(""), display_id=True)
        self._started = self._shown = time.monotonic()

    def update(self, done: int, total: int | None, *, first: int = 0) -> None:
        """Show how much is done, when the bar has stood still for long enough.

        Args:
            done: how many things are done.
            total: how many there are, if that is known.
            first: how many of them were done before the bar began.
        """
        now = time.monotonic()
        if now - self._shown < MIN_SECONDS:
            return
        self._shown = now
        share, left = "", ""
        if total:
            share = f'value="{done}" max="{total}"'
            seconds = round((now - self._started) / max(done - first, 1) * (total - done))
            left = f" ETA {seconds // 60}:{seconds % 60:02d}"
        self._handle.update(self._html(f"<code>{escape(self.words)}</code> <progress {share}></progress>{left}"))

    def close(self) -> None:
        """Take the bar away."""
        self._handle.update(self._html(""))


@contextmanager
def progress(words: str, *, total: Callable[[], int | None], done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal or in a notebook; yields a function that advances it by a number of items.

    Args:
        words: description of the task.
        total: returns the number of items, or None while it is not known; called only if the bar is shown.
        done: items that are done already.
    """
    if in_notebook():
        with _notebook_progress(words, total, done) as advance:
            yield advance
        return
    if not console().is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(words), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("", total=total(), completed=done)

        def advance(number: int) -> None:
            if bar.tasks[0].total is None:
                bar.update(task, total=total())
            bar.advance(task, number)

        yield advance


@contextmanager
def _notebook_progress(words: str, total: Callable[[], int | None], first: int) -> Iterator[Callable[[int], None]]:
    bar = NotebookBar(words)
    done, number = first, total()

    def advance(more: int) -> None:
        nonlocal done, number
        done += more
        number = total() if number is None else number
        bar.update(done, number, first=first)

    try:
        yield advance
    finally:
        bar.close()


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


def num_columns(text: str) -> int:
    """Return how many Latin letters are about as wide as a text: a Chinese, Japanese or Korean letter counts twice."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def left_to_right(text: str) -> str:
    """Keep what follows a name on its right, also behind one in a script that is written from right to left."""
    is_rtl = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text)
    return f"\N{LEFT-TO-RIGHT MARK}{text}\N{LEFT-TO-RIGHT MARK}" if is_rtl else text


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; pipes in cells are escaped."""
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{'---|' * len(header)}", *lines[1:]]
