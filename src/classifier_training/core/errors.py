"""Errors that are told to the user in three lines instead of a traceback."""

from __future__ import annotations

import difflib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(Exception):
    """The user's input or configuration is wrong.

    Args:
        came: what was found, naming the setting, file or line.
        expected: what would have been right.
        remedy: what to do now, as a command or setting where there is one.
    """

    exit_code = 2

    def __init__(self, came: str, expected: str, remedy: str) -> None:
        super().__init__(came, expected, remedy)
        self.came = came
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.came}\n  expected: {self.expected}\n  to do:    {self.remedy}"


class CheckFailedError(UserError):
    """A check of our own work did not hold, such as the parity of an export."""

    exit_code = 1


class InterruptedRunError(UserError):
    """A signal ended a run before its end."""

    def __init__(self, signal_number: int, remedy: str) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"the run was interrupted ({name})", "a run to its end", remedy)
        self.exit_code = 128 + signal_number


def nearest(word: str, options: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the options spelt most like `word`, best first; empty when none is close."""
    by_folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=limit, cutoff=0.6)
    return [by_folded[folded] for folded in close]


def enumerate_words(words: Iterable[str], *, limit: int = 12) -> str:
    """Join words for a message, cutting a long list short and saying by how much."""
    listed = list(words)
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"


def shown(label: str) -> str:
    """Return a class name so that an empty one, or a space at its end, is seen."""
    if not label:
        return "(empty)"
    return repr(label) if label != label.strip() or not label.isprintable() else label


def require_extra(module: str, *, extra: str, purpose: str) -> UserError:
    """Return the error for an optional dependency that is not installed."""
    return UserError(
        f"{purpose} needs {module}, which is not installed",
        f"the optional extra '{extra}'",
        f"uv sync --extra {extra}   (or: pip install 'classifier-training[{extra}]')",
    )
