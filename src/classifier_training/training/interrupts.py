"""Ctrl-C and SIGTERM, as the exit codes and words that a user expects."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytorch_lightning.utilities.exceptions import SIGTERMException

from classifier_training.core.errors import InterruptedRunError
from classifier_training.core.runtime import command, setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier_training.core.run_dir import RunDir


@contextmanager
def told_interrupts(run_dir: RunDir) -> Iterator[None]:
    """Turn what Lightning makes of a signal into an error that says how to go on.

    Raises:
        InterruptedRunError: with exit code 130 for Ctrl-C and 143 for SIGTERM.
    """
    try:
        yield
    except SIGTERMException as stop:
        raise InterruptedRunError(signal.SIGTERM, _remedy(run_dir)) from stop
    except SystemExit as stop:
        # Lightning ends the program itself on Ctrl-C, deaf to another one.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise InterruptedRunError(signal.SIGINT, _remedy(run_dir)) from stop


def _remedy(run_dir: RunDir) -> str:
    if run_dir.last_checkpoint.is_file():
        return f"{command('train')} {setting('resume', run_dir.path)}"
    return "train again; no epoch was finished and saved yet"
