"""The features of a run's images: what the last layer of its network is shown, computed once and kept."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx

from classifier_training.core.display import progress
from classifier_training.core.errors import UserError, enumerate_words, plural
from classifier_training.core.run_dir import atomic_path, sha256
from classifier_training.core.runtime import command, setting
from classifier_training.core.storage.places import path_of
from classifier_training.data.splitting.manifest import read_manifest
from classifier_training.export.bundle import NOVELTY_NAME
from classifier_training.export.novelty import FEATURES_NAME, expose_features, expose_other_features
from classifier_training.export.session import INPUT_NAME, OUTPUT_NAME, open_session
from classifier_training.inference.decoding import decode
from classifier_training.inference.sources import Item
from classifier_training.workflows.evaluating.run_model import CheckpointPredictor, open_model
from classifier_training.workflows.evaluating.samples import own_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifier_training.core.run_dir import RunDir
    from classifier_training.data.samples import Sample
    from classifier_training.inference.predictor import Predictor

log = logging.getLogger(__name__)

VERSION = 1
"""Of the file; one of another version is computed again."""

BATCH_SIZE = 32


@dataclass(frozen=True)
class RunFeatures:
    """The features of the images of a run that can be read, in the order of its splits.csv.

    Args:
        root: folder that the paths begin from.
        paths: relative to it, with forward slashes, as in splits.csv [N].
        labels: that the run was trained with, so after corrections [N].
        splits: train, val or test [N].
        values: float16 [N, D], not normalized; float32 where a value is too large for float16.
        logits: of the network, before the temperature, float32 [N, K].
        class_names: of the logits [K].
        temperature: that the logits are to be divided by.
        unreadable: why an image is left out, by relative path.
        model_sha256: of the file that computed them.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    values: NDArray[np.floating]
    logits: NDArray[np.float32]
    class_names: tuple[str, ...]
    temperature: float
    unreadable: dict[str, str]
    model_sha256: str

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Paths of the files [N], as in predictions.csv."""
        return tuple(str(self.root / path) for path in self.paths)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Class numbers [N]; -1 for a label that the model does not know."""
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return np.array([numbers.get(label, -1) for label in self.labels], dtype=np.int64)

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """Places of the images of these splits whose labels the model knows."""
        chosen = [split in splits and target >= 0 for split, target in zip(self.splits, self.targets, strict=True)]
        return np.flatnonzero(chosen)

    def row_of(self, path: str) -> int:
        """Place of an image, named by its relative path or its file; -1 for one that is not there."""
        for names in (self.paths, self.files):
            if path in names:
                return names.index(path)
        resolved = str(Path(path).expanduser().absolute())
        return self.files.index(resolved) if resolved in self.files else -1


class ImageFeatures(NamedTuple):
    """What a network makes of one image: features [D] and logits [K], both empty where there is an error."""

    item: Item
    features: NDArray[np.floating]
    logits: NDArray[np.float32]
    error: str | None = None
    novelty: float | None = None


NOTHING = np.zeros(0, dtype=np.float32)


class FeatureExtractor:
    """Computes the features and the logits of image files with a run's model.

    Args:
        run_dir: the run; its model.onnx computes and, where that was withheld or not exported, PyTorch.

    Raises:
        UserError: when the model cannot be opened, or does not end in one linear layer.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.predictor: Predictor = open_model(str(run_dir.path.absolute())).predictor
        self._run: Runner = (
            self.predictor.run_with_features
            if isinstance(self.predictor, CheckpointPredictor)
            else _onnx_features(self.predictor.model_path)
        )

    def __call__(self, items: Iterable[Item]) -> Iterator[ImageFeatures]:
        """Yield what the network makes of each item, in their order."""
        decoded = decode(items, self.predictor.preprocessing, ahead=BATCH_SIZE)
        while batch := list(islice(decoded, BATCH_SIZE)):
            tensors = [one.tensor for one in batch if one.tensor is not None]
            found = zip(*self._run(np.stack(tensors)), strict=True) if tensors else iter(())
            for one in batch:
                if one.error is not None or one.tensor is None:
                    yield ImageFeatures(one.item, NOTHING, NOTHING, one.error)
                    continue
                features, logits, *novelty = next(found)
                if np.isfinite(features).all() and np.isfinite(logits).all():
                    yield ImageFeatures(one.item, features, logits, novelty=float(novelty[0]) if novelty else None)
                else:
                    yield ImageFeatures(one.item, NOTHING, NOTHING, "the model's output is not a number")


Runner = Callable[["NDArray[np.float32]"], "Sequence[NDArray[np.float32]]"]
"""Inputs, float32 [B, 3, H, W] -> features [B, D], logits [B, K] and, where the model gives it, novelty [B]."""


def _onnx_features(path: Path) -> Runner:
    model = onnx.load(path)
    if not expose_features(model) and not expose_other_features(model):
        raise UserError(
            f"{path}: no place is found in the network where an image is one vector of features",
            "a network that ends in a linear layer or a convolution, or a shallow model",
            "another model= has features, such as tf_efficientnet_lite0, svm or random_forest",
        )
    # The cores are shared with those who decode the next images.
    session = open_session(model.SerializeToString(), accelerator="auto", spinning=False)

    given = {output.name for output in session.get_outputs()}
    names = [FEATURES_NAME, OUTPUT_NAME, *([NOVELTY_NAME] if NOVELTY_NAME in given else [])]

    def run(inputs: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = session.run(names, {INPUT_NAME: inputs})
        return found

    return run


class _Stored(NamedTuple):
    """The content of features.npz: each file once, whatever labels it has."""

    places: dict[str, int]
    sizes: dict[str, int]
    values: NDArray[np.floating]
    logits: NDArray[np.float32]
    unreadable: dict[str, str]
    class_names: tuple[str, ...]
    temperature: float
    root: Path

    def holds(self, path: str, size: int | None) -> bool:
        """Whether a file was computed and, where it can be seen, still has the same size."""
        return (path in self.places or path in self.unreadable) and size in (None, self.sizes[path])

    def holds_all(self, rows: Iterable[Sample], root: Path) -> bool:
        """Whether nothing has to be computed for images below a folder."""
        return all(self.holds(row.path, _size(root / row.path)) for row in rows)


def run_features(run_dir: RunDir, *, moved_to: str | None = None) -> RunFeatures:
    """Return the features of all images of a run, from features.npz in its folder or computed now.

    They are computed again when the model is another; of images that are new in splits.csv, or whose file has another
    size, alone. Where the folder cannot be written to they are not kept, with a line in the log.

    Args:
        run_dir: a finished run.
        moved_to: folder that its images are in now, if not where they were.

    Raises:
        UserError: when the run, its model or its images cannot be found, no image can be read, or the network has no
            features.
    """
    if run_dir.is_cross_validation:
        raise UserError(
            f"{run_dir.path}: a cross-validated run has a network for each fold, and their features differ",
            "a run with one network, such as one of its folds",
            setting("run", run_dir.fold(0).path),
        )
    digest = sha256(_model_file(run_dir))
    rows: Sequence[Sample] = read_manifest(run_dir.splits)
    stored = _read(run_dir, digest)
    if moved_to is None and stored is not None and stored.holds_all(rows, stored.root):
        return _arrange(rows, stored.root, stored, digest)
    rows, root = own_samples(run_dir, moved_to=moved_to)
    if stored is None or not stored.holds_all(rows, root):
        stored = _renew(run_dir, digest, rows, root, stored)
    return _arrange(rows, root, stored, digest)


def _arrange(rows: Sequence[Sample], root: Path, stored: _Stored, digest: str) -> RunFeatures:
    kept = [row for row in rows if row.path in stored.places]
    if not kept:
        raise UserError(
            f"{root}: none of the run's images can be read",
            "the images that the run was trained on",
            "name the folder that they are in now: data.root=…",
        )
    left_out = {row.path: stored.unreadable[row.path] for row in rows if row.path in stored.unreadable}
    if left_out:
        named = enumerate_words([f"{path} ({reason})" for path, reason in left_out.items()], limit=3)
        log.warning("%s without features, which cannot be read: %s", plural(len(left_out), "image"), named)
    places = np.array([stored.places[row.path] for row in kept], dtype=np.int64)
    # The usual case, in which nothing has to be copied.
    in_order = len(places) == len(stored.values) and bool((places == np.arange(len(places))).all())
    return RunFeatures(
        root=root,
        paths=tuple(row.path for row in kept),
        labels=tuple(row.label for row in kept),
        splits=tuple(row.split for row in kept),
        values=stored.values if in_order else stored.values[places],
        logits=stored.logits if in_order else stored.logits[places],
        class_names=stored.class_names,
        temperature=stored.temperature,
        unreadable=left_out,
        model_sha256=digest,
    )


def _model_file(run_dir: RunDir) -> Path:
    """The file that predicts for a run; see `open_model`."""
    files = [path for path in (run_dir.onnx, run_dir.weights, run_dir.best_checkpoint) if path.is_file()]
    if not files:
        raise UserError(
            f"{run_dir.path}: has no model", "a finished run", f"{command('export')} {setting('run', run_dir.path)}"
        )
    return files[0]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _renew(run_dir: RunDir, digest: str, rows: Sequence[Sample], root: Path, old: _Stored | None) -> _Stored:
    """Compute what is missing, and keep it in the run."""
    paths = list(dict.fromkeys(row.path for row in rows))
    sizes = {path: _size(root / path) for path in paths}
    known = [] if old is None else [path for path in paths if old.holds(path, sizes[path])]
    held = set(known)
    wanted = [path for path in paths if path not in held]
    extractor = FeatureExtractor(run_dir)
    unreadable = {path: old.unreadable[path] for path in known if path in old.unreadable} if old is not None else {}
    found: dict[str, ImageFeatures] = {}
    log.info("features of %s: computed with %s", plural(len(wanted), "image"), extractor.predictor.model_path.name)
    with progress("features", total=lambda: len(wanted)) as advance:
        items = (Item(str(root / path), path) for path in wanted)
        for one in extractor(items):
            advance(1)
            if one.error is not None:
                unreadable[one.item.name] = one.error
            else:
                found[one.item.name] = one._replace(features=as_half(one.features))
    places: dict[str, int] = {}
    values: list[NDArray[np.floating]] = []
    logits: list[NDArray[np.float32]] = []
    for path in paths:
        if path in unreadable:
            continue
        places[path] = len(values)
        if path in found:
            values.append(found[path].features)
            logits.append(found[path].logits)
        elif old is not None:
            values.append(old.values[old.places[path]])
            logits.append(old.logits[old.places[path]])
    calibration = extractor.predictor.calibration
    stored = _Stored(
        places=places,
        sizes={path: size or 0 for path, size in sizes.items()},
        values=np.stack(values) if values else np.zeros((0, 1), dtype=np.float16),
        logits=np.stack(logits) if logits else np.zeros((0, 1), dtype=np.float32),
        unreadable=unreadable,
        class_names=extractor.predictor.class_names,
        temperature=1.0 if calibration is None else calibration.temperature,
        root=root,
    )
    _write(run_dir, digest, stored)
    return stored


def as_half(values: NDArray[np.float32]) -> NDArray[np.floating]:
    """Values as float16, where that can hold them."""
    return values.astype(np.float16) if np.abs(values).max(initial=0) < np.finfo(np.float16).max else values


def _write(run_dir: RunDir, digest: str, stored: _Stored) -> None:
    try:
        with atomic_path(run_dir.features) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                version=VERSION,
                model_sha256=digest,
                root=str(stored.root),
                paths=np.array(list(stored.places), dtype=np.str_),
                values=stored.values,
                logits=stored.logits,
                class_names=np.array(stored.class_names, dtype=np.str_),
                temperature=stored.temperature,
                sizes=np.array([stored.sizes[path] for path in (*stored.places, *stored.unreadable)], dtype=np.int64),
                unreadable=np.array(list(stored.unreadable), dtype=np.str_),
                reasons=np.array(list(stored.unreadable.values()), dtype=np.str_),
            )
    except OSError as error:
        log.warning("%s: cannot be written (%s); computed again next time", run_dir.features, error.strerror)


def _read(run_dir: RunDir, digest: str) -> _Stored | None:
    """Read features.npz; None where there is none, it is another model's, or it is damaged."""
    try:
        with np.load(run_dir.features, allow_pickle=False) as file:
            if int(file["version"]) != VERSION or str(file["model_sha256"]) != digest:
                return None
            paths, unreadable = file["paths"].tolist(), file["unreadable"].tolist()
            return _Stored(
                places={path: place for place, path in enumerate(paths)},
                sizes=dict(zip((*paths, *unreadable), file["sizes"].tolist(), strict=True)),
                values=file["values"],
                logits=file["logits"],
                unreadable=dict(zip(unreadable, file["reasons"].tolist(), strict=True)),
                class_names=tuple(file["class_names"].tolist()),
                temperature=float(file["temperature"]),
                root=path_of(str(file["root"])),
            )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s: damaged (%s); computed again", run_dir.features, error)
        return None
