"""`golden/`: a few pictures with the right answers, so that a client in any language can check itself.

Plain bytes, little-endian, described by golden.json: no client needs a decoder to begin with. Needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from classifier_training.core.run_dir import atomic_path, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from classifier_training.core.preprocess import Preprocessing

NUM_GOLDEN = 4
MAX_SIDE, MAX_RATIO = 384, 1.5
"""Of a picture, in pixels, or this many times the input's side if that is more; larger ones are cut to their middle, so
that the folder stays small."""


def write_golden(
    folder: Path,
    paths: Sequence[str],
    preprocessing: Preprocessing,
    answer: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    class_names: Sequence[str],
) -> None:
    """Write pictures as PNG and as raw RGB bytes, the input tensors, and golden.json with the expected probabilities.

    Args:
        folder: where to.
        paths: image files to take the pictures from, spread over; the first few are used.
        preprocessing: what the pictures go through.
        answer: the right probabilities [B, K], calibrated if the bundle is, for inputs, float32 [B, 3, H, W].
        class_names: [K].
    """
    entries = []
    for number, path in enumerate(_spread(paths)):
        image = _middle(preprocessing.read(path), max(MAX_SIDE, round(MAX_RATIO * preprocessing.size[0])))
        inputs = preprocessing.tensor(image)
        names = {"image": f"{number}.png", "rgb": f"{number}.rgb", "input": f"{number}.input.f32"}
        with atomic_path(folder / names["image"]) as temporary:
            image.save(temporary, format="PNG")
        _write_bytes(folder / names["rgb"], np.asarray(image))
        _write_bytes(folder / names["input"], inputs.astype("<f4"))
        (shares,) = answer(inputs[None])
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


def _spread(paths: Sequence[str]) -> list[str]:
    rows = np.unique(np.linspace(0, len(paths) - 1, NUM_GOLDEN).round().astype(int))
    return [paths[row] for row in rows]


def _middle(image: Image.Image, side: int) -> Image.Image:
    width, height = min(image.width, side), min(image.height, side)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _write_bytes(path: Path, values: NDArray[np.generic]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(np.ascontiguousarray(values).tobytes())
