"""Observers that no configuration names: those of a workflow that makes runs, such as a trial of `tune`."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier_training.callbacks.observer import Observer

_watching: ContextVar[tuple[Observer, ...]] = ContextVar("watching", default=())


@contextmanager
def watched_by(observer: Observer) -> Iterator[None]:
    """Have an observer see the runs that are made inside the block, besides those of their configuration."""
    token = _watching.set((*_watching.get(), observer))
    try:
        yield
    finally:
        _watching.reset(token)


def watching() -> tuple[Observer, ...]:
    """Return the observers of the blocks that this call is inside."""
    return _watching.get()
