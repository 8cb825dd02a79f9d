"""Taking over a newly promoted run without a request that fails."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classifier_training.core.errors import UserError, reason_of
from classifier_training.core.run_dir import RunDir

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from classifier_training.service.engine import Arms, Engine
    from classifier_training.service.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a reference stands for at one time: two that are alike are the same model.

    Args:
        files: model and description of each run, with time and size.
    """

    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, paths: tuple[Path, ...]) -> State:
        """Look at run folders, or ONNX files.

        Raises:
            OSError: when one has gone.
        """
        every = [
            file
            for path in paths
            for file in ([RunDir(path).onnx, RunDir(path).model_info] if path.is_dir() else [path])
        ]
        facts = [(str(file.absolute()), file.stat()) for file in every if file.exists()]
        return cls(tuple((name, fact.st_mtime_ns, fact.st_size) for name, fact in facts))


class Watcher:
    """Opens the run that an arm's reference stands for whenever that is another one, beside the one that answers.

    Args:
        arm: whose run it is.
        arms: of the server.
        find: returns the folders or files that the reference stands for now.
        state: what that was when the engine of the arm was opened.
        open_engine: opens them.
        metrics: that count.
        every_s: seconds between two looks.
    """

    def __init__(
        self,
        arm: str,
        arms: Arms,
        *,
        find: Callable[[], tuple[Path, ...]],
        state: State,
        open_engine: Callable[[tuple[Path, ...]], Engine],
        metrics: Metrics,
        every_s: float,
    ) -> None:
        self._arm, self._arms = arm, arms
        self._find, self._open, self._metrics, self._every_s = find, open_engine, metrics, every_s
        self._state = state
        self._failed: State | None = None
        self._told = ""

    async def watch(self) -> None:
        """Look again and again, until this task is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> bool:
        """Look once; returns whether another run answers from now on."""
        try:
            paths, state = await asyncio.to_thread(self._see)
        except (UserError, OSError) as error:
            self._tell(reason_of(error))
            return False
        if state == self._state:
            self._recover()
            return False
        if state == self._failed:
            return False
        try:
            engine = await asyncio.to_thread(self._open, paths)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the one that answers goes on
            self._failed = state
            self._metrics.reloads.labels(self._arm, "failed").inc()
            self._tell(reason_of(error))
            return False
        before = self._arms.engines[self._arm]
        self._arms.engines[self._arm] = engine
        self._state, self._failed = state, None
        self._metrics.opened(self._arm, engine, instead_of=before)
        self._recover()
        # Requests that are under way keep the one before; the last of them releases it.
        log.info("%s: %s answers in place of %s", self._arm, engine.run, before.run)
        return True

    def _see(self) -> tuple[tuple[Path, ...], State]:
        paths = self._find()
        return paths, State.of(paths)

    def _tell(self, reason: str) -> None:
        self._metrics.stale.labels(self._arm).set(1)
        if reason != self._told:
            self._told = reason
            log.error("%s: %s still answers; the run in its place cannot be opened: %s",
                      self._arm, self._arms.engines[self._arm].run, reason)  # fmt: skip

    def _recover(self) -> None:
        self._told, self._failed = "", None
        self._metrics.stale.labels(self._arm).set(0)
