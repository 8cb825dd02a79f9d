"""The cost of networks by name, measured once and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import write_json
from classifier_training.core.runtime import cache_dir, versions
from classifier_training.core.types import BuiltModel
from classifier_training.models.cost import Cost, cost
from classifier_training.models.shapes import on_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

Build = Callable[[int], Any]

SHAPED_BY = ("python", "torch", "torchvision", "timm")
"""Packages that decide what a network is made of, besides this one."""


def measure(
    builders: Mapping[str, Build], *, num_classes: int, image_size: int | None, foreign: Collection[str] = ()
) -> dict[str, Cost | str]:
    """Return the cost of each network by its name, or in words why there is none.

    What was measured once is read from the cache folder, without torch, until a package that shapes it changes.

    Args:
        builders: makes a network for a number of classes, by a name that stands for it alone.
        num_classes: outputs of the networks.
        image_size: side of the input in pixels; the network's own where it is None.
        foreign: names of networks that other packages make, which may change unseen: they are measured each time.
    """
    path = cache_dir() / "model_figures.json"
    stamp = _stamp()
    kept = _read(path, stamp)
    keys = {name: f"{name} {num_classes} {image_size}" for name in builders}
    absent = [name for name, key in keys.items() if key not in kept or name in foreign]
    if len(absent) > 1:
        log.info("measuring %d networks, once", len(absent))
    for name in absent:
        found = _measure(builders[name], num_classes=num_classes, image_size=image_size)
        kept[keys[name]] = found if isinstance(found, str) else dataclasses.asdict(found)
    if absent:
        write_json(path, {"stamp": stamp, "figures": kept})
    return {name: value if isinstance(value := kept[key], str) else Cost(**value) for name, key in keys.items()}


def _measure(build: Build, *, num_classes: int, image_size: int | None) -> Cost | str:
    from classifier_training.models.forward import fit_input

    try:
        built = on_shapes(lambda: build(num_classes))
        if not isinstance(built, BuiltModel):
            return "it is no neural network"
        size = image_size or built.input_spec.size
        fit_input(built, image_size=size, batch_size=2)
    except UserError as error:
        return error.came
    return cost(built, image_size=size)


def _stamp() -> str:
    """Name the state of all that a figure follows from."""
    found = versions()
    digest = hashlib.sha256(" ".join(found[name] for name in SHAPED_BY).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _read(path: Path, stamp: str) -> dict[str, Any]:
    """Return the figures that were kept; none when they are of another state, or the file is damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    figures = kept.get("figures") if isinstance(kept, dict) and kept.get("stamp") == stamp else None
    return figures if isinstance(figures, dict) else {}
