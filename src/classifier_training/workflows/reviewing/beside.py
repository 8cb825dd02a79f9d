"""What stands beside an image: its nearest training images, and why the model predicts it as it does."""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import cached_property
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifier_training.core.errors import UserError, reason_of
from classifier_training.core.types import TRAIN
from classifier_training.evaluation.neighbours import nearest
from classifier_training.workflows.evaluating.explain import explain_error
from classifier_training.workflows.evaluating.features import run_features

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from classifier_training.workflows.evaluating.explain import TrainingImage
    from classifier_training.workflows.evaluating.features import RunFeatures
    from classifier_training.workflows.reviewing.collection import Collection

log = logging.getLogger(__name__)

NUM_BESIDE = 6
"""Images of each class."""

State = Literal["absent", "computing", "ready", "failed"]


class Beside:
    """The neighbours of images among the training images, by the features of a run's network.

    Args:
        collection: the images.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.state: State = "absent"
        self.words = "" if collection.run else "With a run, these are the nearest images: review RUN."
        self._features: RunFeatures | None = None
        self._lock = Lock()
        if collection.run is not None and collection.run.features.is_file():
            self.compute()

    def compute(self) -> None:
        """Read the features, or compute them once, in a thread of its own."""
        with self._lock:
            if self.state not in ("absent", "failed") or self.collection.run is None:
                return
            self.state, self.words = "computing", "The features of the run's images are being computed."
        Thread(target=self._compute, name="features", daemon=True).start()

    def _compute(self) -> None:
        assert self.collection.run is not None
        try:
            self._features = run_features(self.collection.run, moved_to=str(self.collection.root))
        except (UserError, OSError) as error:
            log.warning("no features: %s", error)
            self.state, self.words = "failed", reason_of(error)
        else:
            self.state, self.words = "ready", ""

    def why(self, row: int) -> dict[str, Any]:
        """Say why the model predicts an image as it does, once there are features.

        Returns:
            `state` and `words` as they stand here, and `findings`: sentences, each with training images.
        """
        collection = self.collection
        if self.state != "ready" or collection.run is None:
            return {"state": self.state, "words": self.words, "findings": []}
        path = str(collection.root / collection.paths[row])
        try:
            explained = explain_error(collection.run, path, moved_to=str(collection.root)).findings()
        except UserError as error:
            return {"state": self.state, "words": error.came, "findings": []}
        findings = [{"words": words, "images": [*self._shown(images)]} for words, images in explained]
        return {"state": self.state, "words": "", "findings": findings}

    def _shown(self, images: Iterable[TrainingImage]) -> Iterator[dict[str, str]]:
        for image in images:
            path = image.path.removeprefix(f"{self.collection.root}/")
            if path in self._rows:
                yield {"id": self.collection.ids[self._rows[path]], "path": path, "label": image.label}

    def of_class(self, row: int, label: str) -> list[tuple[int, float | None]]:
        """Return training images of a class, the nearest to an image first, with their cosine similarity.

        Without features they are the first ones of the class, and nothing is said of how near they are.
        """
        found = self._nearest(row, label) if self.state == "ready" else None
        if found is not None:
            return found
        rows = self._training_rows.get(label, [])
        some: list[tuple[int, float | None]] = [(other, None) for other in rows if other != row]
        return some[:NUM_BESIDE]

    @cached_property
    def _training_rows(self) -> dict[str, list[int]]:
        """Places of the training images by label, of all where there is no split."""
        splits, labels = self.collection.splits, self.collection.labels
        return _grouped((labels[row], row) for row, split in enumerate(splits) if split in (TRAIN, ""))

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Places of the training images among the features, by the label that the run was trained with."""
        features = self._features
        assert features is not None
        return _grouped((features.labels[place], place) for place in features.rows(TRAIN).tolist())

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {path: row for row, path in enumerate(self.collection.paths)}

    def _nearest(self, row: int, label: str) -> list[tuple[int, float | None]] | None:
        features = self._features
        assert features is not None
        own = features.row_of(self.collection.paths[row])
        if own < 0:
            return None
        places = np.array([place for place in self._places.get(label, []) if place != own], dtype=np.int64)
        found = nearest(features.values[places], features.values[own : own + 1], NUM_BESIDE)
        paths = [features.paths[place] for place in places[found.rows[0]].tolist()]
        pairs = zip(paths, found.similarities[0].tolist(), strict=True)
        return [(self._rows[path], similarity) for path, similarity in pairs if path in self._rows]


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for label, place in pairs:
        groups[label].append(place)
    return groups
