"""The exit code of the command line where no test of the whole program can choose the moment."""

from __future__ import annotations

import signal
import threading

import pytest

from classifier_training import cli
from classifier_training.core.errors import InterruptedRunError


class InterruptedLock:
    """A lock; a signal comes when `Condition.wait` takes it back."""

    def __init__(self, error: BaseException) -> None:
        self._lock = threading.Lock()
        self._error = error

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_error: object) -> None:
        self.release()

    def acquire(self, blocking: bool = True) -> bool:
        if blocking:
            raise self._error
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        self._lock.release()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (InterruptedRunError(signal.SIGTERM, "give the same command again"), 143),
    ],
)
def test_a_signal_inside_of_pythons_locks_is_no_crash(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def run(_argv: object) -> int:
        condition = threading.Condition(InterruptedLock(error))  # type: ignore[arg-type]
        with condition:
            condition.wait(0.01)
        return 0

    monkeypatch.setattr(cli, "run", run)
    assert cli.main() == code


def test_an_error_of_a_lock_without_a_signal_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_argv: object) -> int:
        threading.Lock().release()
        return 0

    monkeypatch.setattr(cli, "run", run)
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        cli.main()
