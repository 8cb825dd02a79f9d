"""Predictions from an exported ONNX model, without torch or Lightning."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from PIL import Image

from classifier_training.core.errors import UserError
from classifier_training.core.images import MAX_PIXELS, UnreadableImageError, rgb_of
from classifier_training.core.runtime import num_cores
from classifier_training.core.types import Prediction, softmax
from classifier_training.evaluation.label_sets import label_sets
from classifier_training.export.bundle import NOVELTY_NAME
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, device_words
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
from classifier_training.inference.rows import to_row
from classifier_training.inference.sources import Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.export.bundle import Calibration
    from classifier_training.export.session import Accelerator
    from classifier_training.inference.rows import Row, RowSettings

    ImageLike = Path | str | bytes | Image.Image | NDArray[Any]
    """A path, a file's bytes, a Pillow image, or pixels."""


class Decoded(NamedTuple):
    """An item with its input, float32 [3, H, W], or with the reason why it has none."""

    item: Item
    tensor: NDArray[np.float32] | None
    error: str | None


def decode(items: Iterable[Item], preprocessing: Preprocessing, *, ahead: int) -> Iterator[Decoded]:
    """Yield items decoded, in their order.

    Args:
        items: what to decode.
        preprocessing: from pixels to input.
        ahead: items that are decoded in advance.
    """
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if len(first) < 2:
        # For a single image, threads cost more than they save.
        yield from (decode_one(item, preprocessing) for item in first)
        return
    pool = ThreadPoolExecutor(num_cores(), "decode")
    waiting: deque[Future[Decoded]] = deque()
    try:
        for item in chain(first, remaining):
            waiting.append(_submit(pool, item, preprocessing))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_one(item: Item, preprocessing: Preprocessing) -> Decoded:
    """Decode one item; a failure becomes the item's error."""
    if item.error is not None:
        return Decoded(item, None, item.error)
    try:
        image = preprocessing.read(item.path) if item.pixels is None else Image.fromarray(item.pixels)
        return Decoded(item, fit(image, preprocessing), None)
    except UnreadableImageError as error:
        return Decoded(item, None, error.reason)
    except MemoryError:
        return Decoded(item, None, "does not fit into memory")


def fit(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the network's input for an upright RGB image, float32 [3, H, W].

    Raises:
        UnreadableImageError: for an image so long and thin that it becomes huge before it is cropped.
    """
    place = preprocessing.geometry(image.height, image.width)
    if place.height * place.width > MAX_PIXELS:
        raise UnreadableImageError("", f"{image.width} x {image.height} pixels are too long and thin to be cropped")
    return preprocessing.tensor(image)


def _submit(pool: ThreadPoolExecutor, item: Item, preprocessing: Preprocessing) -> Future[Decoded]:
    if item.pixels is None:
        return pool.submit(decode_one, item, preprocessing)
    # Frames arrive decoded and large; in a queue they would fill the memory.
    done: Future[Decoded] = Future()
    done.set_result(decode_one(item, preprocessing)._replace(item=replace(item, pixels=None)))
    return done


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
    def device(self) -> str:
        """Where the model runs, in words."""
        return device_words(self._model.session)

    @overload
    def __call__(self, images: ImageLike) -> Prediction: ...

    @overload
    def __call__(self, images: list[ImageLike]) -> list[Prediction]: ...

    def __call__(self, images: ImageLike | list[ImageLike]) -> Prediction | list[Prediction]:
        """Classify an image, or a list of them; an unreadable file gives a prediction with an error.

        A file that does not exist gives one, too, in a list; alone it is an error.

        Args:
            images: path of a file, its bytes, a Pillow image, or pixels as `rgb_of` takes them; or a list of these.

        Raises:
            UserError: for a single file that does not exist, and for bytes, arrays or Pillow images that cannot be read
                as an image.
        """
        if isinstance(images, list):
            return self._classify(images)
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
        batch_size = min(max(len(images), 1), 32)
        labelled = self.label(items, batch_size=batch_size, top_k=3, rule=RejectRule(), probabilities=False)
        return [prediction for _, prediction in labelled]

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
        rule = self.rule(threshold, reject or RejectSettings(), unknown=unknown)
        items = (Item(str(path), "") for path in paths)
        labelled = self.label(
            items,
            batch_size=batch_size,
            top_k=top_k,
            rule=rule,
            probabilities=probabilities,
            unknown=unknown,
            set_thresholds=self.set_thresholds(label_set or LabelSetSettings()),
        )
        return (prediction for _, prediction in labelled)

    def rule(self, threshold: float, reject: RejectSettings, *, unknown: bool) -> RejectRule:
        """Return the thresholds that settings stand for; see `predict`."""
        if unknown:
            refuse_unknown(self.class_names)
        return make_rule(self._model, threshold, reject)

    def set_thresholds(self, settings: LabelSetSettings) -> NDArray[np.float64] | None:
        """Return the probability from which on each class is in a label set [K]; None without sets; see `predict`."""
        return set_thresholds(self._model, settings)

    def label(
        self,
        items: Iterable[Item],
        *,
        batch_size: int,
        top_k: int,
        rule: RejectRule,
        probabilities: bool,
        unknown: bool = False,
        set_thresholds: NDArray[np.float64] | None = None,
    ) -> Iterator[tuple[Item, Prediction]]:
        """Classify the items of a source and yield each with its prediction; see `predict`."""
        for output in self._raw_outputs(items, batch_size):
            if output.logits is None:
                yield output.item, Prediction(output.path, error=output.error)
                continue
            shares = softmax(output.logits / np.float32(self._model.temperature))
            # Sorted by logits: dividing by the temperature may round two probabilities to the same value.
            order = np.argsort(-output.logits, kind="stable")[:top_k]
            label, confidence = self.class_names[order[0]], float(shares[order[0]])
            reason = rule.reason(label, confidence, output.novelty)
            members = None if set_thresholds is None else self._label_set(output.logits, shares, set_thresholds)
            yield (
                output.item,
                Prediction(
                    path=output.path,
                    label=UNKNOWN if unknown and reason else label,
                    confidence=confidence,
                    top_k=tuple((self.class_names[row], float(shares[row])) for row in order),
                    probabilities=dict(zip(self.class_names, shares.tolist(), strict=True)) if probabilities else None,
                    rejected=reason is not None,
                    reject_reason=reason,
                    label_set=members,
                ),
            )

    def rows(self, items: Sequence[Item], settings: RowSettings, *, batch_size: int | None = None) -> list[Row]:
        """Return the rows of one batch, or of several: what `label` says of the same items in the same batches."""
        labelled = self.label(
            items,
            batch_size=batch_size or max(len(items), 1),
            top_k=settings.top_k,
            rule=settings.rule,
            probabilities=settings.probabilities,
            unknown=settings.unknown,
            set_thresholds=settings.set_thresholds,
        )
        has_sets = settings.set_thresholds is not None
        return [to_row(one, probabilities=settings.probabilities, label_set=has_sets) for _, one in labelled]

    def _label_set(
        self, logits: NDArray[np.float32], shares: NDArray[np.float32], thresholds: NDArray[np.float64]
    ) -> tuple[str, ...]:
        (members,) = label_sets(shares[None], thresholds)
        return tuple(self.class_names[row] for row in np.argsort(-logits, kind="stable") if members[row])

    def raw_outputs(self, paths: Iterable[Path | str], *, batch_size: int = 32) -> Iterator[RawOutput]:
        """Yield the logits of image files one batch at a time, in their order."""
        return self._raw_outputs((Item(str(path), "") for path in paths), batch_size)

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the model without preprocessing: preprocessed inputs, float32 [B, 3, H, W], to logits, float32 [B, K]."""
        return self._run(inputs, [OUTPUT_NAME])[0]

    def _run(self, inputs: NDArray[np.float32], outputs: list[str]) -> list[NDArray[np.float32]]:
        session = self._model.session
        dtype = np.float16 if "float16" in session.get_inputs()[0].type else np.float32
        found = session.run(outputs, {INPUT_NAME: inputs.astype(dtype, copy=False)})
        return [np.asarray(values, dtype=np.float32) for values in found]

    def _raw_outputs(self, items: Iterable[Item], batch_size: int) -> Iterator[RawOutput]:
        decoded = decode(items, self.preprocessing, ahead=batch_size)
        while batch := list(islice(decoded, batch_size)):
            yield from self._run_batch(batch)

    def _run_batch(self, batch: Sequence[Decoded]) -> Iterator[RawOutput]:
        tensors = [decoded.tensor for decoded in batch if decoded.tensor is not None]
        if not tensors:
            yield from (RawOutput(decoded.item, None, decoded.error) for decoded in batch)
            return
        # An unreadable image leaves zeros in its place, so that the others are computed in a batch of the same size.
        empty = np.zeros_like(tensors[0])
        inputs = np.stack([empty if decoded.tensor is None else decoded.tensor for decoded in batch])
        all_logits, *scores = self._run(inputs, self._outputs)
        for row, (decoded, logits) in enumerate(zip(batch, all_logits, strict=True)):
            if decoded.tensor is None:
                yield RawOutput(decoded.item, None, decoded.error)
            elif not np.isfinite(logits).all():
                yield RawOutput(decoded.item, None, "the model's output is not a number")
            else:
                yield RawOutput(decoded.item, logits, novelty=float(scores[0][row]) if scores else None)
