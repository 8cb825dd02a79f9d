"""Several models as one: the mean of their calibrated probabilities. Needs no torch."""

from __future__ import annotations

import hashlib
from itertools import tee
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError, enumerate_words
from classifier_training.evaluation.predictions import log_softmax
from classifier_training.inference.model import LoadedModel
from classifier_training.inference.predictor import BatchOutput, Predictor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.export.bundle import Calibration
    from classifier_training.inference.sources import Item


def mean_logits(logits: Sequence[NDArray[np.floating]], temperatures: Sequence[float]) -> NDArray[np.float32]:
    """Return the logarithm of the mean of models' calibrated probabilities, float32 [..., K].

    Its softmax is that mean. Nothing overflows or becomes the logarithm of 0.

    Args:
        logits: of each model, float [..., K].
        temperatures: that each model's are divided by.
    """
    logarithms = np.stack([log_softmax(one / value) for one, value in zip(logits, temperatures, strict=True)])
    highest = logarithms.max(axis=0)
    return np.asarray(highest + np.log(np.exp(logarithms - highest).mean(axis=0)), dtype=np.float32)


class Ensemble(Predictor):
    """Classifies images by the mean of several models' calibrated probabilities.

    Args:
        members: the models, with the same classes; each prepares images in its own way.
        path: what the ensemble is called in messages, such as a folder.
        calibration: what thresholds and label sets come from; None where nothing was fitted to the ensemble.

    Raises:
        UserError: for no model, or models with other classes.
    """

    def __init__(self, members: Sequence[Predictor], *, path: Path, calibration: Calibration | None = None) -> None:
        if not members:
            raise UserError("run=[]: no run", "one run or more", "run=[FOLDER,FOLDER]")
        refuse_other_classes(members)
        first = members[0]
        digests = "".join(member.model_sha256 for member in members)
        super().__init__(
            LoadedModel(
                path=path,
                sha256=hashlib.sha256(digests.encode()).hexdigest(),
                class_names=first.class_names,
                preprocessing=first.preprocessing,
                session=None,
                calibration=calibration,
                is_ensemble=True,
            )
        )
        self.members = tuple(members)
        self.is_uniform = all(member.preprocessing == first.preprocessing for member in members)

    @property
    def device(self) -> str:
        """Where the models run, in words."""
        return f"{enumerate_words(dict.fromkeys(member.device for member in self.members))}, {len(self.members)} models"

    def _run(self, inputs: NDArray[np.float32], outputs: list[str]) -> list[NDArray[np.float32]]:
        assert len(outputs) == 1, "an ensemble gives logits alone"
        if not self.is_uniform:
            raise UserError(
                f"{self.model_path}: the models of this ensemble prepare images in different ways",
                "image files, which each model prepares itself",
                "predict the files",
            )
        return [self._mean([member.run(inputs) for member in self.members])]

    def num_runs(self, batch_size: int) -> int:
        """Return how many batches of a size go through the models at the same time."""
        return min(member.num_runs(batch_size) for member in self.members)

    def _batches(self, items: Iterable[Item], batch_size: int) -> Iterator[BatchOutput]:
        if self.is_uniform:
            # Each image is decoded once.
            yield from super()._batches(items, batch_size)
            return
        copies = zip(self.members, tee(items, len(self.members)), strict=True)
        for found in zip(*(member._batches(copy, batch_size) for member, copy in copies), strict=True):  # noqa: SLF001
            every = zip(*(one.errors for one in found), strict=True)
            errors = [next((error for error in each if error), None) for each in every]
            with np.errstate(all="ignore"):
                logits = self._mean([one.logits for one in found])
            yield BatchOutput(found[0].items, logits, errors)

    def _mean(self, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return mean_logits(logits, [member.temperature for member in self.members])


def refuse_other_classes(members: Sequence[Predictor]) -> None:
    """Make sure that models have the same classes.

    Raises:
        UserError: naming two that do not, and a class that one lacks.
    """
    first, *others = members
    for other in others:
        if other.class_names != first.class_names:
            lacking = [name for name in first.class_names if name not in other.class_names]
            extra = [name for name in other.class_names if name not in first.class_names]
            difference = [f"the second lacks {enumerate_words(map(repr, lacking))}"] if lacking else []
            difference += [f"the first lacks {enumerate_words(map(repr, extra))}"] if extra else []
            raise UserError(
                f"{first.model_path} and {other.model_path} have other classes: {'; '.join(difference)}",
                "models of the same classes, whose probabilities can be averaged",
                "leave one of them out",
            )
