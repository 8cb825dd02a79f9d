"""What is wrong with single rows and files of a data set: the first ends the run, or all are left out and counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from classifier_training.core.errors import UserError

log = logging.getLogger(__name__)


class Faults:
    """Collects what cannot be used.

    Args:
        on_error: raise ends the run at the first; skip goes on and counts.
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise") -> None:
        self._on_error = on_error
        self._number = 0
        self._first = ""

    def meet(self, error: UserError) -> None:
        """Raise the error, or remember it.

        Raises:
            UserError: that very error, unless such are skipped.
        """
        if self._on_error == "raise":
            raise error
        self._number += 1
        self._first = self._first or error.came
        log.debug("left out: %s", error.came)

    def report(self, where: Path) -> None:
        """Say in one line how much is left out."""
        if self._number:
            log.warning("%s: %d rows or files cannot be used and are left out; the first: %s",
                        where, self._number, self._first)  # fmt: skip
