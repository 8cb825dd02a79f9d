"""Notices that another node of a run is silent: its machine is off, or the link to it is cut.

A process that ends closes its connections, and the others notice at once. A cable that is pulled closes nothing: the
kernel goes on sending for a quarter of an hour, and gloo waits for ten minutes.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_SECONDS = 5.0
"""Time between two beats."""
SILENT_SECONDS = 45.0
"""Silence after which a node counts as lost. The sum of both is the time until it is noticed."""


class Store(Protocol):
    """What is needed of a store of torch.distributed."""

    def clone(self) -> Store:
        """Return one that another thread may use."""

    def add(self, key: str, amount: int) -> int:
        """Add to a number, which is 0 at first, and return it."""


class Heartbeat:
    """Counts up in the store of the run, and looks whether the other nodes do so; a context manager.

    Args:
        store: of the run, which every node reaches.
        node: this node.
        num_nodes: of the run.
        lost: called once, in a thread, with the numbers of the silent nodes; all others where the store is silent.
        every: seconds between two beats.
        silent: seconds of silence after which a node is lost.
    """

    def __init__(
        self,
        store: Store,
        node: int,
        num_nodes: int,
        lost: Callable[[list[int]], object],
        *,
        every: float = EVERY_SECONDS,
        silent: float = SILENT_SECONDS,
    ) -> None:
        self._store, self._node, self._lost = store.clone(), node, lost
        self._every, self._silent = every, silent
        self._counts = dict.fromkeys((other for other in range(num_nodes) if other != node), 0)
        self._heard = dict.fromkeys(self._counts, time.monotonic())
        self._over = threading.Event()

    def __enter__(self) -> Heartbeat:
        # Two threads: a call of the store that hangs is what the other one notices.
        for run in (self._beat, self._watch):
            threading.Thread(target=run, name=f"heartbeat{run.__name__}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._store.add(f"alive/{self._node}", 1)
                for other, before in self._counts.items():
                    count = self._store.add(f"alive/{other}", 0)
                    if count != before:
                        self._counts[other], self._heard[other] = count, time.monotonic()
            except RuntimeError:  # the store is gone, and with it the agent that holds it: the run ends by itself
                return

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            now = time.monotonic()
            silent = [other for other, heard in self._heard.items() if now - heard > self._silent]
            if silent:
                self._lost(silent)
                return
