"""Fitting a bundle's calibration to the exported file's predictions. Needs no torch.

All is fitted on validation images, and the subspace of the score on training images; test images have no part in it.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from PIL import Image

from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import num_cores
from classifier_training.core.types import TRAIN, VAL, softmax
from classifier_training.evaluation.calibration import choose_temperature
from classifier_training.evaluation.groups import Groups
from classifier_training.evaluation.label_sets import TrueScores
from classifier_training.evaluation.reject import class_curves
from classifier_training.export.bundle import Calibration, Novelty
from classifier_training.export.examples import batches_of_rows, iterate_examples, read_rows, unreadable
from classifier_training.export.novelty import (
    FEATURES_NAME,
    FeatureSubspace,
    add_novelty,
    alarm_threshold,
    expose_features,
    remove_novelty,
)
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session
from classifier_training.monitoring.reference import MAX_CHANGED, NUM_CHANGES, Reference, measure_responses
from classifier_training.monitoring.statistics import Scale, image_statistics, shown_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.types import SplitTable

log = logging.getLogger(__name__)

MIN_IMAGES = 30
"""Of the validation split: a threshold for one image in twenty cannot be had from fewer."""

MAX_VALIDATION_IMAGES, MAX_TRAINING_IMAGES = 5000, 2000
"""Images that are looked at, spread evenly over a larger split."""

CHANGED_SIDE = 256
"""Shorter side in pixels that large images are shrunk to, if the input is no larger, before copies are changed."""

BATCH_SIZE = 16

MAX_RUNS = 8
"""Batches that go through the model at the same time: beyond this many each run has several cores, to save memory."""


def calibrate(
    path: Path, class_names: Sequence[str], preprocessing: Preprocessing, tables: Mapping[str, SplitTable]
) -> Calibration | None:
    """Fit everything to an exported model's predictions, and add the output `novelty` and the temperature to the file.

    Args:
        path: model.onnx, changed in place.
        class_names: [K].
        preprocessing: from pixels to input.
        tables: the training and validation splits.

    Returns:
        What was found, with a temperature of 1 where another helps nothing; None, with a line in the log, where there
        are too few validation images.

    Raises:
        UserError: when no image of a split can be read.
    """
    if len(tables[VAL]) < MIN_IMAGES:
        log.info(
            "not calibrated: %d validation images, and %d are needed for thresholds",
            len(tables[VAL]), MIN_IMAGES,
        )  # fmt: skip
        return None
    model = onnx.load(path)
    remove_novelty(model)
    has_features = expose_features(model)
    runner = _Runner(model, preprocessing, has_features=has_features)
    logits, features, targets, groups, statistics = runner.predict(tables[VAL], MAX_VALIDATION_IMAGES)
    subspace = None
    if has_features and features.shape[1] > 1:
        subspace = FeatureSubspace.fit(runner.predict(tables[TRAIN], MAX_TRAINING_IMAGES).features)
    scores = _novelty(logits, features, subspace)
    choice = choose_temperature(logits, targets, groups)
    shares = softmax(logits / np.float32(choice.temperature))
    threshold = alarm_threshold(scores)
    grouped = Groups.of(groups)

    def predict(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found, inside = runner.run(preprocessing.normalize(pixels))
        return softmax(found / np.float32(choice.temperature)), _novelty(found, inside, subspace)

    number = num_changed(len(tables[VAL]), len(tables[TRAIN]))
    images = (
        (_shrunk(preprocessing.read(path), preprocessing.size), target)
        for batch in iterate_examples(tables[VAL], preprocessing, batch_size=BATCH_SIZE, number=number)
        for path, target in zip(batch.paths, batch.targets.tolist(), strict=True)
    )
    responses = measure_responses(
        images,
        lambda pixels: preprocessing.pixels(Image.fromarray(pixels)),
        predict,
        Scale(float(np.median(scores)), threshold),
        num_threads=runner.num_runs,
    )
    found = Calibration(
        choice=choice,
        curves=class_curves(shares, targets, class_names, grouped),
        scores=TrueScores.of(shares, targets, grouped),
        novelty=Novelty(
            threshold=threshold,
            false_alarm_rate=float((scores > threshold).mean()),
            method="energy" if subspace is None else "feature_subspace",
        ),
        reference=Reference.fit(class_names, statistics, shares, scores, threshold, targets, responses),
    )
    add_novelty(model, subspace)
    set_metadata(model, found.metadata())
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
    return found


def num_changed(num_val: int, num_train: int) -> int:
    """Return of how many validation images changed copies are predicted: no more copies than other images looked at."""
    if num_val < MIN_IMAGES:
        return 0
    looked_at = min(num_val, MAX_VALIDATION_IMAGES) + min(num_train, MAX_TRAINING_IMAGES)
    return min(MAX_CHANGED, num_val, looked_at // NUM_CHANGES)


def set_metadata(model: onnx.ModelProto, texts: Mapping[str, str]) -> None:
    """Set texts in an ONNX file's metadata, the others left as they are."""
    onnx.helper.set_model_props(model, {item.key: item.value for item in model.metadata_props} | dict(texts))


def _shrunk(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels of an image, the shorter side of a large one no longer than changing it takes."""
    side, shorter = max(CHANGED_SIDE, *size), min(image.size)
    if shorter > side:
        image = image.resize(
            (max(1, image.width * side // shorter), max(1, image.height * side // shorter)), Image.Resampling.BOX
        )
    return np.asarray(image)


def _novelty(
    logits: NDArray[np.float32], features: NDArray[np.float32], subspace: FeatureSubspace | None
) -> NDArray[np.float32]:
    """Novelty scores [N]: of the features, or the energy of the logits where there is no subspace."""
    if subspace is not None:
        return subspace.scores(features)
    # -logsumexp(logits) = logits - log softmax, of any class (Liu et al. 2020).
    return np.asarray(np.log(softmax(logits).max(axis=1)) - logits.max(axis=1), dtype=np.float32)


class _Predictions(NamedTuple):
    """Logits [N, K], features [N, D], targets [N] and groups [N] of images, and the statistics of the images [N, S]."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    targets: NDArray[np.int64]
    groups: list[str]
    statistics: NDArray[np.float32]


class _Runner:
    """An ONNX model that gives its features beside its logits, on the images of a split.

    Several runs go on at the same time, each in a thread, which also decodes, resizes and measures its images.
    """

    def __init__(self, model: onnx.ModelProto, preprocessing: Preprocessing, *, has_features: bool) -> None:
        self.num_runs = min(num_cores(), MAX_RUNS)
        threads = max(1, num_cores() // self.num_runs)
        self._session = open_session(model.SerializeToString(), num_threads=threads, spinning=False)
        self._preprocessing = preprocessing
        self._outputs = [OUTPUT_NAME, FEATURES_NAME if has_features else OUTPUT_NAME]

    def run(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits [B, K] and features [B, D] of inputs."""
        logits, features = self._session.run(self._outputs, {INPUT_NAME: inputs})
        return logits, features

    def predict(self, table: SplitTable, number: int) -> _Predictions:
        """Return its predictions on up to `number` images spread over a split."""

        def predict(rows: list[int]) -> _Predictions | None:
            if (batch := read_rows(table, rows, self._preprocessing)) is None:
                return None
            statistics = image_statistics(shown_pixels(batch.inputs, self._preprocessing))
            return _Predictions(*self.run(batch.inputs), batch.targets, list(batch.groups), statistics)

        with ThreadPoolExecutor(self.num_runs) as pool:
            found = [one for one in pool.map(predict, batches_of_rows(table, number, BATCH_SIZE)) if one is not None]
        if not found:
            raise unreadable(table)
        logits, features, targets, groups, columns = zip(*found, strict=True)
        return _Predictions(
            np.concatenate(logits), np.concatenate(features), np.concatenate(targets),
            [one for part in groups for one in part], np.concatenate(columns),
        )  # fmt: skip
