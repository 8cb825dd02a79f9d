"""Features of a split's images: computed side by side, and kept on disk by the content of the pixels."""

from __future__ import annotations

import json
import logging
import os
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.processes import hold
from classifier_training.core.run_dir import atomic_path
from classifier_training.core.runtime import cache_dir
from classifier_training.data.dataset import map_samples
from classifier_training.data.store.plan import budget_bytes, make_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from classifier_training.core.types import Batch

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
    folder.mkdir(parents=True, exist_ok=True)
    # Eviction spares what somebody has open, and takes the longest unused first.
    with hold(folder / "use.lock", shared=True):
        os.utime(folder)
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
