"""Predictions from an exported ONNX model, without torch or Lightning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.images import rgb_of
from classifier_training.core.runtime import command, num_cores, setting
from classifier_training.core.types import Prediction, softmax
from classifier_training.evaluation.label_sets import label_sets
from classifier_training.export.bundle import NOVELTY_NAME
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, PROVIDERS, device_words
from classifier_training.inference.decoding import map_batches
from classifier_training.inference.model import LoadedModel, load_model
from classifier_training.inference.rejection import (
    DEFAULT_THRESHOLD,
    UNKNOWN,
    LabelSetSettings,
    RejectRule,
    RejectSettings,
    make_rule,
    refuse_unknown,
    set_thresholds,
)
from classifier_training.inference.rows import RowSettings
from classifier_training.inference.sources import Item
from classifier_training.monitoring.sketch import SketchWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from classifier_training.export.bundle import Calibration
    from classifier_training.export.session import Accelerator
    from classifier_training.inference.decoding import Batch
    from classifier_training.inference.rows import Row

    ImageLike = Path | str | bytes | Image.Image | NDArray[Any]
    """A path, a file's bytes, a Pillow image, or pixels."""
    Several = list[ImageLike] | tuple[ImageLike, ...] | Iterator[ImageLike]


RUN_BYTES = 2**24
"""Inputs that are in the model at the same time."""


@dataclass(frozen=True)
class RawOutput:
    """Output of the network for one image.

    Args:
        item: the image.
        logits: [K], before the temperature; None where the image cannot be classified.
        error: why not.
        novelty: how unlike the training data the image is, where the model gives that score.
    """

    item: Item
    logits: NDArray[np.float32] | None
    error: str | None = None
    novelty: float | None = None

    @property
    def path(self) -> str:
        """Path of the image."""
        return self.item.path


class BatchOutput(NamedTuple):
    """Output of the network for a batch.

    Args:
        items: the images.
        logits: [B, K], before the temperature; any values where there is an error.
        errors: why an image cannot be classified [B].
        novelty: how unlike the training data each image is [B], where the model gives that score.
        pixels: as the network was shown them, uint8 [B, H, W, 3], where they are at hand.
    """

    items: list[Item]
    logits: NDArray[np.float32]
    errors: list[str | None]
    novelty: NDArray[np.float32] | None = None
    pixels: NDArray[np.uint8] | None = None

    def scores(self) -> list[float] | list[None]:
        """The novelty of each image."""
        return [None] * len(self.items) if self.novelty is None else self.novelty.tolist()

    def each(self) -> Iterator[RawOutput]:
        """The output for each image."""
        for item, logits, error, score in zip(self.items, self.logits, self.errors, self.scores(), strict=True):
            yield RawOutput(item, logits, None, score) if error is None else RawOutput(item, None, error)


class Outputs(NamedTuple):
    """What the network gives for a batch.

    Args:
        logits: [B, K], before the temperature.
        novelty: how unlike the training data each image is [B], where the model gives that score.
    """

    logits: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None


class Predictor:
    """Classifies images with an exported model.

    Args:
        run: a run folder or a copy of one, or an ONNX file that `export` wrote, wherever it lies; or a model that is
            already open.
        accelerator: where ONNX Runtime computes: auto takes CUDA if it is available, else the CPU.

    Raises:
        UserError: when a file is missing, damaged or inconsistent with the others, or the accelerator is not available.
    """

    def __init__(self, run: Path | str | LoadedModel, *, accelerator: Accelerator = "auto") -> None:
        model = run if isinstance(run, LoadedModel) else load_model(Path(run).expanduser(), accelerator=accelerator)
        self.class_names = model.class_names
        self.preprocessing = model.preprocessing
        self.model_path = model.path
        self.model_sha256 = model.sha256
        self._model = model
        self._outputs = [OUTPUT_NAME, NOVELTY_NAME] if model.gives_novelty else [OUTPUT_NAME]

    @property
    def calibration(self) -> Calibration | None:
        """What was fitted on the validation split; None for a lone file, or a bundle that was not calibrated."""
        return self._model.calibration

    @property
    def temperature(self) -> float:
        """What the logits are divided by before their softmax gives the probabilities."""
        return self._model.temperature

    @property
    def novelty_threshold(self) -> float | None:
        """Score above which an image is unlike the training data; None where the model gives no score."""
        return self._model.novelty_threshold

    @property
    def device(self) -> str:
        """Where the model runs, in words."""
        return device_words(self._model.session)

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...

    @overload
    def __call__(self, images: Several) -> list[Prediction]: ...

    def __call__(self, images: ImageLike | Several) -> Prediction | list[Prediction]:
        """Classify an image, or several of them in a list, tuple or iterator.

        An unreadable file gives a prediction with an error. A file that does not exist gives one, too, among several;
        alone it is an error.

        Args:
            images: path of a file, its bytes, a Pillow image, or pixels as `rgb_of` takes them; or several of these.

        Raises:
            UserError: for a single file that does not exist, for a folder, and for bytes, arrays or Pillow images that
                cannot be read as an image.
        """
        if isinstance(images, (list, tuple, Iterator)):
            return self._classify(list(images))
        if isinstance(images, (str, Path)) and Path(images).is_dir():
            raise UserError(
                f"{images}: a folder",
                "an image, or several of them",
                f"list(Path({str(images)!r}).iterdir()), or {command('predict')} {images}",
            )
        if isinstance(images, (str, Path)) and not Path(images).exists():
            raise UserError(
                f"{images}: there is no such file",
                "the path of an image",
                f"look for it from {Path.cwd()}, or give all of its path",
            )
        (prediction,) = self._classify([images])
        return prediction

    def _classify(self, images: list[ImageLike]) -> list[Prediction]:
        items = (
            Item(str(image), "")
            if isinstance(image, (str, Path))
            else Item("", "", np.asarray(rgb_of(image, max_value=self.preprocessing.max_value)))
            for image in images
        )
        return list(self._predictions(items, RowSettings(), batch_size=min(max(len(images), 1), 32)))

    def predict(
        self,
        paths: Iterable[Path | str],
        *,
        batch_size: int = 32,
        top_k: int = 3,
        threshold: float = DEFAULT_THRESHOLD,
        reject: RejectSettings | None = None,
        label_set: LabelSetSettings | None = None,
        unknown: bool = False,
        probabilities: bool = False,
    ) -> Iterator[Prediction]:
        """Classify image files one batch at a time, in their order.

        Args:
            paths: image files.
            batch_size: images in a batch.
            top_k: top predictions to list.
            threshold: confidence below which a prediction is marked as rejected; its label stays.
            reject: thresholds per class from the validation split instead, and whether images unlike the training data
                are rejected.
            label_set: the chance with which sets of labels hold the true one; without it there are no sets.
            unknown: whether a rejected prediction has the label `unknown`.
            probabilities: whether to list every class.

        Raises:
            UserError: for settings that exclude each other, or that need a calibrated bundle.
        """
        if isinstance(paths, (str, os.PathLike)):
            raise UserError(f"predict({paths!r}): one path", "a list of paths", f"predict([{str(paths)!r}])")
        settings = RowSettings(
            top_k=top_k,
            rule=self.rule(threshold, reject or RejectSettings(), unknown=unknown),
            unknown=unknown,
            probabilities=probabilities,
            set_thresholds=self.set_thresholds(label_set or LabelSetSettings()),
        )
        return self._predictions((Item(str(path), "") for path in paths), settings, batch_size=batch_size)

    def rule(self, threshold: float, reject: RejectSettings, *, unknown: bool) -> RejectRule:
        """Return the thresholds that settings stand for; see `predict`."""
        if unknown:
            refuse_unknown(self.class_names)
        return make_rule(self._model, threshold, reject)

    def set_thresholds(self, settings: LabelSetSettings) -> NDArray[np.float64] | None:
        """Return the probability from which on each class is in a label set [K]; None without sets; see `predict`."""
        return set_thresholds(self._model, settings)

    def rows(self, items: Sequence[Item], settings: RowSettings) -> list[Row]:
        """Return the rows of one batch."""
        return [row for _, rows in self.row_batches(items, settings, batch_size=max(len(items), 1)) for row in rows]

    def row_batches(
        self,
        items: Iterable[Item],
        settings: RowSettings,
        *,
        batch_size: int,
        sketches: SketchWriter | None = None,
    ) -> Iterator[tuple[list[Item], list[Row]]]:
        """Classify the items of a source, yield each batch with its rows, and count them in a sketch; see `predict`."""
        for output in self._batches(items, batch_size):
            rows = [settings.row(prediction) for prediction in self.label(output, settings)]
            if sketches is not None:
                self._sketch(output, rows, sketches)
            yield output.items, rows

    def sketch_writer(self, folder: Path) -> SketchWriter:
        """Return what writes sketches of predictions into a folder, for `watch`.

        Raises:
            UserError: when the bundle has no reference sketch to compare with, or the folder cannot be written.
        """
        reference = None if self.calibration is None else self.calibration.reference
        if reference is None:
            raise UserError(
                f"{self.model_path}: has no reference sketch, so nothing could be compared with its predictions",
                "a run that was calibrated on 30 validation images or more, not a lone file or an ensemble",
                f"{command('export')} {setting('run', self.model_path.parent)}   (for a run of an earlier version)",
            )
        return SketchWriter(folder, self.model_sha256, self.class_names, reference.novelty)

    def _sketch(self, output: BatchOutput, rows: Sequence[Row], sketches: SketchWriter) -> None:
        kept = [place for place, row in enumerate(rows) if row["error"] is None]
        sketches.add(
            self.shares(output.logits[kept]),
            np.array([bool(rows[place]["rejected"]) for place in kept]),
            pixels=None if output.pixels is None else output.pixels[kept],
            novelty=None if output.novelty is None else output.novelty[kept],
        )

    def _predictions(self, items: Iterable[Item], settings: RowSettings, *, batch_size: int) -> Iterator[Prediction]:
        for output in self._batches(items, batch_size):
            yield from self.label(output, settings)

    def label(self, output: BatchOutput, settings: RowSettings) -> Iterator[Prediction]:
        """Yield the prediction of each image of a batch."""
        names, errors = self.class_names, output.errors
        # An image with an error may have any logits.
        with np.errstate(all="ignore"):
            shares = self.shares(output.logits)
            # Sorted by logits: dividing by the temperature may round two probabilities to the same value.
            order = np.argsort(-output.logits, axis=1, kind="stable")
        members = None if settings.set_thresholds is None else label_sets(shares, settings.set_thresholds)
        top = order[:, : settings.top_k]
        best = zip(top.tolist(), np.take_along_axis(shares, top, axis=1).tolist(), output.scores(), strict=True)
        for place, (classes, values, score) in enumerate(best):
            path, error = output.items[place].path, errors[place]
            if error is not None:
                yield Prediction(path, error=error)
                continue
            label, confidence = names[classes[0]], values[0]
            reason = settings.rule.reason(label, confidence, score)
            yield Prediction(
                path=path,
                label=UNKNOWN if settings.unknown and reason else label,
                confidence=confidence,
                top_k=tuple(zip([names[number] for number in classes], values, strict=True)),
                probabilities=dict(zip(names, shares[place].tolist(), strict=True)) if settings.probabilities else None,
                rejected=reason is not None,
                reject_reason=reason,
                label_set=None
                if members is None
                else tuple(names[number] for number in order[place].tolist() if members[place, number]),
            )

    def raw_outputs(self, paths: Iterable[Path | str], *, batch_size: int = 32) -> Iterator[RawOutput]:
        """Yield the logits of image files one batch at a time, in their order."""
        for output in self._batches((Item(str(path), "") for path in paths), batch_size):
            yield from output.each()

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the model without preprocessing: preprocessed inputs, float32 [B, 3, H, W], to logits, float32 [B, K]."""
        return self._run(inputs, [OUTPUT_NAME])[0]

    def infer(self, inputs: NDArray[np.float32]) -> Outputs:
        """Run the model without preprocessing, and return all that it gives; see `run`."""
        logits, *scores = self._run(inputs, self._outputs)
        return Outputs(logits, scores[0] if scores else None)

    def shares(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the calibrated probabilities of logits [B, K]."""
        return softmax(logits / np.float32(self._model.temperature))

    def _run(self, inputs: NDArray[np.float32], outputs: list[str]) -> list[NDArray[np.float32]]:
        session = self._model.session
        dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
        found = session.run(outputs, {INPUT_NAME: inputs.astype(dtype, copy=False)})
        return [np.asarray(values, dtype=np.float32) for values in found]

    def _batches(self, items: Iterable[Item], batch_size: int) -> Iterator[BatchOutput]:
        return map_batches(
            items, self._run_batch, self.preprocessing, batch_size=batch_size, num_runs=self.num_runs(batch_size)
        )

    def num_runs(self, batch_size: int) -> int:
        """Return how many batches of a size go through the model at the same time.

        A model of small images does not keep all cores busy; one of large images does, and its layers fill the memory.
        """
        if self._model.session is None or self._model.session.get_providers()[0] != PROVIDERS["cpu"]:
            return 1
        height, width = self.preprocessing.size
        return min(num_cores(), max(1, RUN_BYTES // (batch_size * 3 * height * width * 4)))

    def _run_batch(self, batch: Batch) -> BatchOutput:
        errors = list(batch.errors)
        if all(error is not None for error in errors):
            return BatchOutput(batch.items, np.zeros((len(errors), len(self.class_names)), dtype=np.float32), errors)
        return self.checked(batch.items, errors, self.infer(batch.inputs()))._replace(pixels=batch.pixels)

    @staticmethod
    def checked(items: list[Item], errors: list[str | None], found: Outputs) -> BatchOutput:
        """Return the output of a batch, with an error for each image whose logits are no numbers."""
        for place in np.flatnonzero(~np.isfinite(found.logits).all(axis=1)).tolist():
            errors[place] = errors[place] or "the model's output is not a number"
        return BatchOutput(items, found.logits, errors, found.novelty)
