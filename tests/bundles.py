"""A small bundle with golden images, for the tests of everything that runs pipeline.onnx outside Python."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
from PIL import Image
from sklearn.datasets import load_sample_images

from classifier_training.core.errors import CheckFailedError
from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import softmax
from classifier_training.export.bundle import TEMPERATURE_KEY, BundleInfo, write_info
from classifier_training.export.calibrate import set_metadata
from classifier_training.export.examples import write_golden
from classifier_training.export.pipeline import write_pipeline
from classifier_training.export.session import onnx_runner

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from classifier_training.core.types import BuiltModel, SplitTable
    from classifier_training.export.examples import Examples
    from classifier_training.export.job import ExportedFile

PREPROCESSING = Preprocessing(size=(48, 48), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASS_NAMES = ("", "ü", 'a "b"')
INFO = BundleInfo(class_names=CLASS_NAMES, preprocessing=PREPROCESSING, architecture="test_resnet")
SHARPNESS = 10
"""Factor of the last layer: an untrained network is so undecided that even a wrong resize would pass."""


def write_bundle(
    run_dir: RunDir,
    model: BuiltModel,
    info: BundleInfo,
    *,
    examples: Examples,
    opset: int | None,
    tables: Mapping[str, SplitTable] | None = None,
    bake_temperature: bool = True,
) -> list[ExportedFile]:
    """Write a whole bundle at once; it takes what `BundleWriter` takes.

    Returns:
        What was written, and how it compares with PyTorch.

    Raises:
        CheckFailedError: when a file is withheld.
    """
    from classifier_training.export.write import BundleWriter

    with BundleWriter(
        run_dir,
        model,
        info,
        examples=lambda: examples,
        opset=opset,
        tables=tables,
        bake_temperature=bake_temperature,
    ) as writer:
        writer.write_model()
        writer.write_others()
    for reason in writer.info.withheld.values():
        raise CheckFailedError(reason, "files that predict what PyTorch predicts", "see what was said above")
    return writer.files


def write_small_bundle(folder: Path) -> RunDir:
    """Export an untrained network, with four images of different shapes."""
    import torch

    from classifier_training.core.types import SplitTable
    from classifier_training.export.examples import read_examples
    from classifier_training.models.timm_models import timm_model

    paths = draw_pictures(folder / "images")
    examples = read_examples(
        SplitTable("val", paths, np.arange(4) % len(CLASS_NAMES), [""] * 4), PREPROCESSING, number=4
    )
    torch.manual_seed(0)
    model = timm_model(len(CLASS_NAMES), name="test_resnet", pretrained=False)
    with torch.no_grad():
        list(model.network.parameters())[-2].mul_(SHARPNESS)
    run_dir = RunDir(folder / "run")
    write_bundle(run_dir, model, INFO, examples=examples, opset=None)
    return run_dir


def with_preprocessing(run_dir: RunDir, preprocessing: Preprocessing, folder: Path) -> RunDir:
    """Write the run again with another preprocessing, without exporting its network again."""
    changed = RunDir(folder / "run")
    info = dataclasses.replace(INFO, preprocessing=preprocessing)
    model = onnx.load(run_dir.onnx)
    onnx.helper.set_model_props(model, info.metadata())
    changed.path.mkdir()
    onnx.save(model, changed.onnx)
    write_pipeline(changed.onnx, preprocessing, changed.pipeline)
    logits = onnx_runner(changed.onnx)
    paths = draw_pictures(folder / "images")
    write_golden(changed.golden, paths, preprocessing, lambda inputs: softmax(logits(inputs)), CLASS_NAMES)
    write_info(changed, info)
    return changed


def with_temperature(run_dir: RunDir, temperature: float, folder: Path, *, baked: bool) -> RunDir:
    """Write the run again as a calibrated one, without exporting its network again."""
    changed = RunDir(folder / "run")
    changed.path.mkdir(parents=True)
    model = onnx.load(run_dir.onnx)
    set_metadata(model, {TEMPERATURE_KEY: repr(temperature)})
    onnx.save(model, changed.onnx)
    write_pipeline(changed.onnx, PREPROCESSING, changed.pipeline, temperature=temperature if baked else None)
    logits = onnx_runner(changed.onnx)
    write_golden(
        changed.golden,
        draw_pictures(folder / "images"),
        PREPROCESSING,
        lambda inputs: softmax(logits(inputs) / np.float32(temperature)),
        CLASS_NAMES,
    )
    return changed


def draw_pictures(folder: Path) -> list[str]:
    """Write a photograph, a narrow one, one that must grow, and noise; returns their paths."""
    china, flower = load_sample_images().images
    noise = np.random.default_rng(0).integers(0, 256, (319, 483, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    paths = []
    # None is a square, or is cut to one as a golden image: squares look alike by every resize policy.
    for number, pixels in enumerate((china[:300], flower[:, :33], flower[:5, :7], noise)):
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths
