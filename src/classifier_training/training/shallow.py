"""Training of models that are fitted at once: features on disk, scikit-learn's estimator, and its score."""

from __future__ import annotations

import json
import logging
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import CheckFailedError, UserError
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import DETAIL, cache_dir
from classifier_training.core.types import SplitResult
from classifier_training.data.dataset import map_samples
from classifier_training.data.store.folder import in_use
from classifier_training.data.store.plan import budget_bytes, make_room
from classifier_training.evaluation.metrics import classification_metrics, cross_entropies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from classifier_training.core.types import Batch
    from classifier_training.models.shallow_classifiers import FittedClassifier

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Of the features' arithmetic and files; those of another version are made anew."""

CHUNK = 16
"""Images that a thread describes at once."""


@dataclass(frozen=True)
class Described:
    """A split as a table of features.

    Args:
        features: float32 [N, D].
        targets: int64 [N].
        indices: int64 [N], rows of the split's sample table; those that cannot be read are left out.
        num_kept: how many were found on disk.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.int64]
    indices: NDArray[np.int64]
    num_kept: int


@dataclass
class FeatureCache:
    """Features on disk: pairs of files, `NAME.keys.npy` uint8 [n, 16] and `NAME.values.npy` float32 [n, D].

    Every run adds a pair of its own, so that runs do not disturb each other.

    Args:
        folder: of one way to compute features; None keeps nothing.
        limit_bytes: how much may be added.
    """

    folder: Path | None
    limit_bytes: float = 0.0
    _places: dict[bytes, tuple[NDArray[np.float32], int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in sorted(self.folder.glob("*.keys.npy")) if self.folder else ():
            values = np.load(path.with_name(path.name.replace(".keys.", ".values.")), mmap_mode="r")
            self._places |= {key.tobytes(): (values, row) for row, key in enumerate(np.load(path))}

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """Return the features of an image, float32 [D]; None when they are not there."""
        values, row = self._places.get(key, (None, 0))
        return None if values is None else values[row]

    def add(self, keys: list[bytes], values: NDArray[np.float32]) -> None:
        """Keep features [n, D]; where there is no room, say so and go on."""
        if self.folder is None or not keys:
            return
        if values.nbytes > self.limit_bytes:
            log.info("features: %.2f GB of them are not kept: there is no room (data.store_gb)", values.nbytes / 1e9)
            return
        self.limit_bytes -= values.nbytes
        name = secrets.token_hex(8)
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        try:
            # The keys last: without them the values are not seen.
            for part, array in (("values", values), ("keys", table)):
                with atomic_path(self.folder / f"{name}.{part}.npy") as temporary, temporary.open("wb") as file:
                    np.save(file, array)
        except OSError as error:
            log.warning("%s: features are not kept: %s", self.folder, error.strerror)


@contextmanager
def open_cache(
    settings: Mapping[str, Any], *, wanted_bytes: float, store_gb: float | None, keeps: bool
) -> Iterator[FeatureCache]:
    """Open the features that were computed in one way.

    Args:
        settings: all that they depend on, but for the pixels.
        wanted_bytes: room that a run may need.
        store_gb: room for the features of all settings; half of the free disk when left out.
        keeps: whether anything is read or written.
    """
    if not keeps:
        yield FeatureCache(None)
        return
    decides = json.dumps({"format": FORMAT_VERSION, **settings}, sort_keys=True)
    try:
        base = cache_dir() / "features"
    except UserError as error:
        log.info("features: none are kept; %s", error.came)
        yield FeatureCache(None)
        return
    folder = base / blake2b(decides.encode(), digest_size=8).hexdigest()
    with in_use(folder):
        yield FeatureCache(folder, make_room(base, wanted_bytes, budget_bytes(base, store_gb), keep=folder))


def describe_split(batches: Iterable[Batch], describe: Callable[[Tensor], Tensor], cache: FeatureCache) -> Described:
    """Compute the features of a split, or take them from the disk.

    A thread describes a few images at a time, with one thread of torch's, so that the values do not depend on the
    number of cores.

    Args:
        batches: of images as an evaluation sees them.
        describe: pixels, float32 [B, 3, H, W] of 0..255, to features [B, D].
        cache: of what was computed before.

    Raises:
        UserError: when there is no image.
    """
    import torch

    features, targets, indices, new_keys, new_values = [], [], [], [], []
    for batch in batches:
        if not len(batch.targets):
            continue
        pixels = batch.images.contiguous()
        shape = str(tuple(pixels.shape[1:])).encode()
        keys = [blake2b(image.numpy().data, digest_size=16, key=shape).digest() for image in pixels]
        known = [cache.get(key) for key in keys]
        missing = [place for place, value in enumerate(known) if value is None]
        chunks = [pixels[missing[start : start + CHUNK]] for start in range(0, len(missing), CHUNK)]

        def work(number: int, chunks: list[Tensor] = chunks) -> NDArray[np.float32]:
            with torch.inference_mode():
                return np.asarray(describe(chunks[number].float()).numpy(), dtype=np.float32)

        made = iter(np.concatenate(map_samples(work, len(chunks)))) if chunks else iter(())
        rows = [next(made) if value is None else value for value in known]
        new_keys += [keys[place] for place in missing]
        new_values += [rows[place] for place in missing]
        features.append(np.stack(rows))
        targets.append(batch.targets.numpy())
        indices.append(batch.indices.numpy())
    if not features:
        raise UserError("none of the images can be read", "readable images", "look at the files named above")
    if new_values:
        cache.add(new_keys, np.stack(new_values))
    return Described(
        np.concatenate(features),
        np.concatenate(targets),
        np.concatenate(indices),
        num_kept=sum(map(len, targets)) - len(new_keys),
    )


PREDICT_BATCH = 256

MAX_LOG_SHARPNESS = np.log(100)
"""Bounds of the factor that logits are multiplied by, either way."""


def fit_classifier(
    classifier: FittedClassifier,
    estimator: Any,
    train: Described,
    validation: Described,
    *,
    class_weights: NDArray[np.float64] | None,
) -> None:
    """Fit an estimator, give its state to the network, and the network's logits their temperature.

    Args:
        classifier: takes the state over.
        estimator: of scikit-learn; fitted here.
        train: what to learn from.
        validation: what the temperature is fitted on.
        class_weights: weight of one image of each class [K]; None weighs all alike.

    Raises:
        UserError: when one class alone has readable images.
        CheckFailedError: when the network's predictions differ from scikit-learn's.
    """
    missing = classifier.num_classes - len(np.unique(train.targets))
    if missing:
        raise UserError(
            f"{missing} of {classifier.num_classes} classes have no training image that can be read",
            "readable images of every class",
            "look at the files named above",
        )
    weights = None if class_weights is None else class_weights[train.targets]
    estimator.fit(train.features, train.targets, sample_weight=weights)
    classifier.adopt(estimator)
    logits = logits_of(classifier, validation.features)
    _compare(logits, estimator.predict(validation.features))
    factor = fit_sharpness(logits, validation.targets)
    classifier.sharpen(factor)
    log.info(
        "logits: scikit-learn's scores times %.3g, the inverse temperature that suits validation best",
        factor,
        extra=DETAIL,
    )


def logits_of(classifier: FittedClassifier, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits [N, K] for features [N, D]."""
    import torch

    with torch.inference_mode():
        parts = [classifier(part).numpy() for part in torch.split(torch.from_numpy(features), PREDICT_BATCH)]
    return np.concatenate(parts)


def score(
    classifier: FittedClassifier, described: Described, *, split: str, class_names: Sequence[str], watched: str
) -> SplitResult:
    """Predict a split and score the predictions; `watched` is a metric that is wanted besides the usual ones."""
    logits = logits_of(classifier, described.features)
    losses = cross_entropies(logits, described.targets)
    metrics = classification_metrics(logits, described.targets, losses, class_names, also=[watched])
    return SplitResult(split, logits, described.targets, described.indices, losses, metrics)


def fit_sharpness(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Find the factor of the logits that makes their probabilities fit the true classes best.

    The inverse temperature of Guo et al. 2017 (arXiv:1706.04599), by maximum likelihood. As in Platt 1999
    ("Probabilistic Outputs for Support Vector Machines"), the right class counts 1 - 1/(N+2) and the others share the
    rest: a split without a mistake would otherwise make every prediction certain.
    """
    from scipy.optimize import minimize_scalar

    wide = logits.astype(np.float64)
    rest = 1 / (len(targets) + 2)
    wanted = np.full(wide.shape, rest / (wide.shape[1] - 1))
    wanted[np.arange(len(targets)), targets] = 1 - rest

    def loss(log_factor: float) -> float:
        scaled = np.exp(log_factor) * wide
        highest = scaled.max(axis=1, keepdims=True)
        sums = highest + np.log(np.exp(scaled - highest).sum(axis=1, keepdims=True))
        return float((wanted * (sums - scaled)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(-MAX_LOG_SHARPNESS, MAX_LOG_SHARPNESS), method="bounded")
    return float(np.exp(found.x))


def _compare(logits: NDArray[np.float32], expected: NDArray[np.int64]) -> None:
    """Make sure that the network predicts as scikit-learn does.

    Raises:
        CheckFailedError: when it does not.
    """
    changed = logits.argmax(axis=1) != expected
    leads = logits.max(axis=1) - logits[np.arange(len(expected)), expected]
    log.info(
        "network: predicts as scikit-learn on %d of %d validation images",
        (~changed).sum(), len(expected), extra=DETAIL,
    )  # fmt: skip
    # Sums in float32 may swap two classes that are level in float64.
    if (leads > LEVEL).any():
        raise CheckFailedError(
            f"the network predicts {int(changed.sum())} of {len(expected)} images otherwise than scikit-learn",
            "the same predictions",
            "report your version of scikit-learn and the settings of the model",
        )


LEVEL = 1e-4
"""Scores that are nearer to each other are level."""
