"""Sketches of what is answered, for `watch`: an observer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from classifier_training.monitoring.sketch import SketchWriter
    from classifier_training.service.observing import Answer


class SketchObserver:
    """Counts answers in sketches, by the hour and by the model that gave them.

    Args:
        open_writer: returns what writes the sketches of a model, by the SHA-256 of its file; called once for each.
    """

    def __init__(self, open_writer: Callable[[str], SketchWriter]) -> None:
        self._open_writer = open_writer
        self._writers: dict[str, SketchWriter] = {}

    def seen(self, request_id: str, arm: str, answer: Answer) -> None:  # noqa: ARG002 - an observer is told all
        """Count an answer."""
        writer = self._writers.get(answer.model)
        if writer is None:
            writer = self._writers[answer.model] = self._open_writer(answer.model)
        writer.add(
            answer.probabilities[None],
            np.array([bool(answer.rejected)]),
            pixels=None if answer.pixels is None else answer.pixels[None],
            novelty=None if answer.novelty is None else np.array([answer.novelty]),
        )

    def close(self) -> None:
        """Write what is held."""
        for writer in self._writers.values():
            writer.close()
