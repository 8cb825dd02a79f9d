"""Real images that an export is checked on, and golden/, by which other programs check theirs. Needs no torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.errors import UserError
from classifier_training.core.image_files import UnreadableImageError
from classifier_training.core.run_dir import atomic_path, write_json
from classifier_training.core.types import spread_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from classifier_training.core.preprocess import Preprocessing
    from classifier_training.core.types import SplitTable

log = logging.getLogger(__name__)

NUM_CALIBRATION_IMAGES = 200
"""Training images that a quantization is calibrated on."""


@dataclass(frozen=True)
class Examples:
    """Images and what the network sees of them.

    Args:
        paths: image files [N].
        targets: true classes, int64 [N].
        inputs: the network's inputs, float32 [N, 3, H, W].
        groups: group of each image [N], empty where it has none.
    """

    paths: tuple[str, ...]
    targets: NDArray[np.int64]
    inputs: NDArray[np.float32]
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)


def read_examples(table: SplitTable, preprocessing: Preprocessing, *, number: int) -> Examples:
    """Read up to `number` images spread evenly over a split, so over its classes.

    Raises:
        UserError: when none of them can be read.
    """
    return next(iterate_examples(table, preprocessing, batch_size=number, number=number))


def iterate_examples(
    table: SplitTable, preprocessing: Preprocessing, *, batch_size: int, number: int | None = None
) -> Iterator[Examples]:
    """Read a split, or `number` images spread evenly over it, one batch at a time; unreadable ones are left out.

    Raises:
        UserError: when none can be read.
    """
    found = False
    for rows in batches_of_rows(table, number, batch_size):
        if (examples := read_rows(table, rows, preprocessing)) is not None:
            found = True
            yield examples
    if not found:
        raise unreadable(table)


def batches_of_rows(table: SplitTable, number: int | None, batch_size: int) -> list[list[int]]:
    """Choose `number` rows spread evenly over a split, or all of them, in batches."""
    rows = spread_rows(len(table), len(table) if number is None else number).tolist()
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def read_rows(table: SplitTable, rows: Sequence[int], preprocessing: Preprocessing) -> Examples | None:
    """Read rows of a split, unreadable images left out with a line in the log; None where no image is left."""
    kept, inputs = [], []
    for row in rows:
        try:
            inputs.append(preprocessing.tensor(preprocessing.read(table.paths[row])))
        except UnreadableImageError as error:
            log.warning("left out %s: %s", error.path, error.reason)
        else:
            kept.append(row)
    if not kept:
        return None
    paths, groups = (tuple(column[row] for row in kept) for column in (table.paths, table.groups))
    return Examples(paths, table.targets[kept], np.stack(inputs), groups)


def unreadable(table: SplitTable) -> UserError:
    """The error for a split of which no image can be read."""
    return UserError(
        f"no image of the {table.name} split can be read, such as {table.paths[0]}",
        "the images that the run was trained on, to check the export with",
        "put them back where they were",
    )


NUM_GOLDEN = 4
MAX_SIDE, MAX_RATIO = 384, 1.5
"""Of an image, in pixels, or this many times the input's side if that is more; larger ones are cut to their middle, so
that the folder stays small."""


def write_golden(
    folder: Path,
    paths: Sequence[str],
    preprocessing: Preprocessing,
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    class_names: Sequence[str],
) -> None:
    """Write images as PNG and as raw RGB bytes, the input tensors, and golden.json with the expected probabilities.

    Args:
        folder: where to.
        paths: image files to take the images from, spread over; the first few are used.
        preprocessing: what the images go through.
        predict: the right probabilities [B, K], calibrated if the bundle is, for inputs, float32 [B, 3, H, W].
        class_names: [K].
    """
    entries = []
    for number, row in enumerate(spread_rows(len(paths), NUM_GOLDEN)):
        image = _middle(preprocessing.read(paths[row]), max(MAX_SIDE, round(MAX_RATIO * preprocessing.size[0])))
        inputs = preprocessing.tensor(image)
        names = {"image": f"{number}.png", "rgb": f"{number}.rgb", "input": f"{number}.input.f32"}
        with atomic_path(folder / names["image"]) as temporary:
            image.save(temporary, format="PNG")
        _write_bytes(folder / names["rgb"], np.asarray(image))
        _write_bytes(folder / names["input"], inputs.astype("<f4"))
        (shares,) = predict(inputs[None])
        entries.append(
            {
                **names,
                "height": image.height,
                "width": image.width,
                "input_shape": [1, *inputs.shape],
                "label": class_names[int(shares.argmax())],
                "probabilities": [float(share) for share in shares],
            }
        )
    write_json(folder / "golden.json", {"class_names": list(class_names), "images": entries})


def _middle(image: Image.Image, side: int) -> Image.Image:
    width, height = min(image.width, side), min(image.height, side)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _write_bytes(path: Path, values: NDArray[np.generic]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(np.ascontiguousarray(values).tobytes())
