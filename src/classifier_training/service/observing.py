"""Observers of predictions: they are told of each that was sent, later and in a thread of their own."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from classifier_training.core.types import Prediction

log = logging.getLogger(__name__)

CAPACITY = 512
"""Answers that wait for the observers; with the pixels of each, 224 x 224, they are 77 MB."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The finished answer for one image.

    Args:
        prediction: as it was returned: label, confidence, whether it is rejected and why.
        place: of the image in its request.
        logits: of every class [K], before the temperature.
        probabilities: of every class [K], calibrated.
        class_names: [K].
        novelty: how unlike the training data the image is, where the model gives that score.
        pixels: as the network saw them before they were normalized, uint8 [H, W, 3], RGB; None for a tensor.
        size: width and height of the image file; None for a tensor.
        is_too_large: whether it was not decoded as it has too many pixels.
        seconds: from the body of its request to the answer, of which it was waiting for the model, too.
        model: SHA-256 of the file of the model that answered.
    """

    prediction: Prediction
    place: int
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    class_names: tuple[str, ...]
    novelty: float | None = None
    pixels: NDArray[np.uint8] | None = None
    size: tuple[int, int] | None = None
    is_too_large: bool = False
    seconds: float = 0.0
    model: str = ""

    @property
    def confidence(self) -> float | None:
        """Probability of the predicted class."""
        return self.prediction.confidence

    @property
    def rejected(self) -> bool | None:
        """Whether the answer should not be relied on."""
        return self.prediction.rejected


class Observer(Protocol):
    """Looks at answers. It is called in one thread, in the order of the answers, and runs no network."""

    def seen(self, request_id: str, arm: str, answer: Answer) -> None:
        """Take note of an answer.

        Args:
            request_id: of the request; several answers of one request have the same.
            arm: that answered: production, canary or shadow.
            answer: for one image.
        """
        ...

    def close(self) -> None:
        """Write what is left; called once, at the end."""
        ...


class Observers:
    """Hands answers to observers without holding up who answers: those that do not fit into the queue are dropped.

    Args:
        observers: in the order in which each sees an answer.
        dropped: called with the number of answers that nobody sees.
        failed: called when an observer raises; the others still see the answer.
    """

    def __init__(
        self, observers: Sequence[Observer], *, dropped: Callable[[int], None], failed: Callable[[], None]
    ) -> None:
        self._observers = tuple(observers)
        self._dropped, self._failed = dropped, failed
        self._queue: queue.Queue[tuple[str, str, Answer] | None] = queue.Queue(CAPACITY)
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="observers", daemon=True)
        if self._observers:
            self._thread.start()

    def __bool__(self) -> bool:
        return bool(self._observers)

    def tell(self, request_id: str, arm: str, answers: Sequence[Answer]) -> None:
        """Let the observers see answers soon."""
        for place, answer in enumerate(answers):
            try:
                self._queue.put_nowait((request_id, arm, answer))
            except queue.Full:
                self._dropped(len(answers) - place)
                return

    def close(self, *, timeout: float = 30) -> None:
        """Let the observers see what waits, and write what they have."""
        if not self._observers:
            return
        self._queue.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        while (found := self._queue.get()) is not None:
            for observer in self._observers:
                self._guard(observer, lambda observer=observer, found=found: observer.seen(*found))  # type: ignore[misc]
        for observer in self._observers:
            self._guard(observer, observer.close)

    def _guard(self, observer: Observer, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:  # an observer must not end the others
            self._failed()
            name = type(observer).__name__
            if name not in self._told:
                self._told.add(name)
                log.exception("%s failed; from now on that is counted alone", name)
