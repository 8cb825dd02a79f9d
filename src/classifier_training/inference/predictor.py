"""Answers from a finished run's model.onnx: no torch, no Lightning."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.images import UnreadableImageError, read_rgb
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import Prediction, softmax
from classifier_training.export.bundle import read_info
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """Raw output for one image: logits [K], or the reason why there are none."""

    path: str
    logits: NDArray[np.float32] | None
    error: str | None = None


class Predictor:
    """Classifies images with a run's exported model.

    Args:
        run: a run folder, or a copy of one.

    Raises:
        UserError: when the folder lacks a file or a file is damaged.
    """

    def __init__(self, run: Path | str) -> None:
        run_dir = RunDir(Path(run))
        info = read_info(run_dir)
        self.class_names = info.class_names
        self.preprocessing = info.preprocessing
        self._session = open_session(run_dir.onnx)

    def __call__(self, image: Path | str) -> Prediction:
        """Classify one image file; an unreadable one gives a prediction with an error."""
        return next(self.predict([str(image)]))

    def predict(
        self,
        paths: Iterable[str],
        *,
        batch_size: int = 32,
        top_k: int = 3,
        threshold: float = 0.5,
        probabilities: bool = False,
    ) -> Iterator[Prediction]:
        """Classify image files one batch at a time, in their order.

        Args:
            paths: image files.
            batch_size: images in a batch.
            top_k: likeliest classes to list.
            threshold: confidence below which an answer is marked rejected; its label stays.
            probabilities: whether to list every class.
        """
        for answer in self.answers(paths, batch_size=batch_size):
            if answer.logits is None:
                yield Prediction(answer.path, error=answer.error)
                continue
            shares = softmax(answer.logits)
            order = np.argsort(-shares, kind="stable")[:top_k]
            confidence = float(shares[order[0]])
            yield Prediction(
                path=answer.path,
                label=self.class_names[order[0]],
                confidence=confidence,
                top_k=tuple((self.class_names[row], float(shares[row])) for row in order),
                probabilities=dict(zip(self.class_names, shares.tolist(), strict=True)) if probabilities else None,
                rejected=confidence < threshold,
            )

    def answers(self, paths: Iterable[str], *, batch_size: int = 32) -> Iterator[Answer]:
        """Yield the logits of image files one batch at a time, in their order."""
        remaining = iter(paths)
        while batch := list(islice(remaining, batch_size)):
            yield from self._answer(batch)

    def _answer(self, paths: Sequence[str]) -> Iterator[Answer]:
        inputs: dict[int, NDArray[np.float32]] = {}
        errors: dict[int, str] = {}
        for row, path in enumerate(paths):
            try:
                inputs[row] = self.preprocessing.tensor(read_rgb(path))
            except UnreadableImageError as error:
                errors[row] = error.reason
        logits: dict[int, NDArray[np.float32]] = {}
        if inputs:
            (output,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: np.stack(list(inputs.values()))})
            logits = dict(zip(inputs, output, strict=True))
        for row, path in enumerate(paths):
            yield Answer(path, logits.get(row), errors.get(row))
