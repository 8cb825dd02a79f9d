"""A bar with the time that is left, on a terminal or in a notebook."""

from __future__ import annotations

import time
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from classifier_training.core.runtime import console, in_notebook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    """Give a function to tell how many more things are done; where nobody sees a bar move, nothing is shown.

    Args:
        words: what is being done.
        total: says how many things there are, if that can be known; asked only where a bar is shown.
        done: how many are done already.
    """
    if in_notebook():
        with _notebook_progress(words, total(), done) as advance:
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
        yield lambda number: bar.advance(task, number)


@contextmanager
def _notebook_progress(words: str, total: int | None, first: int) -> Iterator[Callable[[int], None]]:
    bar = NotebookBar(words)
    done = first

    def advance(number: int) -> None:
        nonlocal done
        done += number
        bar.update(done, total, first=first)

    try:
        yield advance
    finally:
        bar.close()
