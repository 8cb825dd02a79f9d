"""Painting plots beside the run: figures are described here and painted in another process, at a low priority."""

from __future__ import annotations

import logging
import os
import warnings
from abc import ABC, abstractmethod
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from classifier_training.core.errors import reason_of
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import leave_interrupts, starts_quietly
from classifier_training.evaluation.figures.style import adopt_fonts, font_advice, take_missing

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import matplotlib.figure

log = logging.getLogger(__name__)

PAINTER_NICENESS = 10
"""Yields to training; the lowest priority would make a run on a busy machine wait for its images at the end."""

MAX_TOLD = 20
"""Letters without a font that are listed."""
LOST = "the drawing process ended early"

MAX_PENDING = 64
"""Figures that may wait; a run that outruns its painter by more than this waits for it."""


class Figure(ABC):
    """An image, described by plain values: cheap to make and to send, painted later and elsewhere.

    Attributes:
        shows_photos: whether its file is reduced to 256 colours, which takes a quarter of the room.
    """

    shows_photos: ClassVar[bool] = False

    @abstractmethod
    def render(self) -> matplotlib.figure.Figure:
        """Paint it. Only here is matplotlib imported."""

    def save(self, path: Path) -> str:
        """Paint it into a PNG file; returns the letters of names that no font of this machine has."""
        with warnings.catch_warnings():
            # Names are written otherwise; in other texts the box that is shown for it says enough.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            # Said of a plot of any size where the machine is busy.
            warnings.filterwarnings("ignore", message="Creating legend with loc=")
            figure = self.render()
            adopt_fonts(figure)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format="png")
                if self.shows_photos:
                    with Image.open(temporary) as image:
                        few = image.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE)
                    few.save(temporary, format="PNG")
        return take_missing()


class Drawer:
    """Paints figures in one background process, so that training never waits for a plot.

    Use it in a `with` block: leaving it waits for what is still to be painted and reports what could not be. After an
    error nothing is waited for: on a busy machine the painter may be far behind.

    Attributes:
        failures: why a figure could not be painted, by its path.
    """

    def __init__(self) -> None:
        self.failures: dict[Path, str] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._pending: list[tuple[Path, Future[str]]] = []
        self._is_lost = False
        self._has_told = False

    def __enter__(self) -> Drawer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if error is None:
            self._pool.shutdown(wait=True)
            self._collect(len(self._pending))
        else:
            self._abandon(self._pool)

    def submit(self, figure: Figure, path: Path) -> None:
        """Have a figure painted into a PNG file."""
        if self._pool is None:
            # A fresh interpreter instead of a fork: forking a process that has torch's threads is not safe.
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_step_back)
        if self._is_lost:
            self.failures[path] = LOST
            return
        try:
            with starts_quietly():
                self._pending.append((path, self._pool.submit(figure.save, path)))
        except BrokenProcessPool as error:
            self.failures[path] = LOST
            self._lose(self._pending[0][0] if self._pending else path, error)
        self._collect(len(self._pending) - MAX_PENDING)

    def _lose(self, path: Path, error: BrokenProcessPool) -> None:
        log.warning("the drawing process ended early; %s and later images are missing: %s", path.name, error)
        # Some may have been painted before it ended; a figure that is there counts as painted.
        self.failures |= {late: LOST for late, _ in self._pending if not late.exists()}
        self._pending.clear()
        self._is_lost = True

    def wait(self) -> None:
        """Wait for everything submitted so far, for whoever needs the files."""
        self._collect(len(self._pending))

    def _tell_missing(self, letters: str) -> None:
        if letters and not self._has_told:
            self._has_told = True
            log.warning(
                "no font of this machine has the letters %s, so plots show their numbers; install one, such as %s",
                letters if len(letters) <= MAX_TOLD else f"{letters[:MAX_TOLD]}…", font_advice(letters),
            )  # fmt: skip

    def _abandon(self, pool: ProcessPoolExecutor) -> None:
        # Python has a public way to do this from 3.14 on.
        for process in list((pool._processes or {}).values()):  # noqa: SLF001
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        for path, _ in self._pending:
            for unfinished in path.parent.glob(f".{path.name}.*.tmp"):
                unfinished.unlink(missing_ok=True)

    def _collect(self, number: int) -> None:
        for path, future in self._pending[: max(number, 0)]:
            try:
                self._tell_missing(future.result())
            except BrokenProcessPool as error:
                self._lose(path, error)
                return
            except Exception as error:  # noqa: BLE001 - a plot that fails must not end the run that it shows
                log.warning("could not draw %s: %s: %s", path, type(error).__name__, error)
                self.failures[path] = reason_of(error)
        del self._pending[: max(number, 0)]


def _step_back() -> None:
    """Set the painter up: low priority, Ctrl-C left to the parent, gone when the parent is."""
    os.nice(PAINTER_NICENESS)
    leave_interrupts()
    Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    # A parent that is killed leaves its pipes open in us, so nothing else would tell.
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
