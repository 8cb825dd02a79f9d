"""The images that files are scored on, and the inputs that are tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.bundles import PREPROCESSING, draw_pictures

from classifier_training.core.errors import UserError
from classifier_training.core.types import SplitTable
from classifier_training.workflows.serving.benchmark_runs import SplitPixels, input_sizes


def test_images_have_the_inputs_of_every_preprocessing_and_unreadable_ones_are_left_out(tmp_path: Path) -> None:
    paths = [*draw_pictures(tmp_path / "images"), str(tmp_path / "broken.png")]
    (tmp_path / "broken.png").write_bytes(b"no image")
    targets = np.arange(len(paths))
    images = SplitPixels(SplitTable("val", paths, targets, [""] * len(paths)), PREPROCESSING, tmp_path)
    assert len(images) == len(paths) - 1
    # An image keeps its class in the new order.
    assert [paths[target] for target in images.targets] == images.paths
    for preprocessing in (PREPROCESSING, replace(PREPROCESSING, size=(32, 32))):
        found = np.concatenate([batch.inputs for batch in images.examples(preprocessing)])
        expected = [preprocessing.tensor(preprocessing.read(path)) for path in images.paths]
        assert np.array_equal(found, np.stack(expected))
    broken = SplitTable("val", [str(tmp_path / "broken.png")], targets[:1], [""])
    with pytest.raises(UserError, match="none of 1 images"):
        SplitPixels(broken, PREPROCESSING, tmp_path)


@pytest.mark.parametrize(
    ("own", "wished", "sizes"),
    [
        (224, None, [128, 160, 192, 224]),
        (96, None, [64, 96]),
        (32, None, [32]),
        (384, None, [192, 256, 288, 352, 384]),
        (224, (192,), [192, 224]),
        (224, (), [224]),
    ],
)
def test_smaller_inputs_are_tried_down_to_half(own: int, wished: tuple[int, ...] | None, sizes: list[int]) -> None:
    run: Any = SimpleNamespace(image_size=own)
    assert input_sizes(run, wished) == (sizes, wished is not None)
