"""A bar with the time that is left, on a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from classifier_training.core.runtime import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress(words: str, *, total: Callable[[], int | None], done: int = 0) -> Iterator[Callable[[int], None]]:
    """Give a function to tell how many more things are done; where the screen is no terminal nothing is shown.

    Args:
        words: what is being done.
        total: says how many things there are, if that can be known; asked only where a bar is shown.
        done: how many are done already.
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
