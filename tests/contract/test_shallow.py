"""Models that are fitted at once do all that networks do, and refuse what has no meaning for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import read_csv

from classifier_training import cli  # noqa: F401 - fills the register
from classifier_training.conf.compose import compose
from classifier_training.core.errors import UserError
from classifier_training.core.register import entry

SMALL = ("data.image_size=32", "data.batch_size=8", "imbalance=weights")
FEW = ("model.hog_orientations=4", "model.lbp_points=4", "model.color_bins=4")
"""Features that take half as long to export."""


def call(verb: str, *words: str) -> Any:
    known = entry("verb", verb)
    return known.run(compose(known, words))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("model=svm",), id="svm", marks=pytest.mark.slow),
        pytest.param(("model=random_forest", "model.num_trees=10"), id="random_forest", marks=pytest.mark.nightly),
    ],
)
def test_it_fits_evaluates_exports_and_predicts(
    words: tuple[str, ...], split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    run = train_here([f"data.root={split_folder}", *SMALL, *FEW, *words])
    for name in (
        "config.yaml", "versions.json", "splits.csv", "train.log", "model.onnx", "pipeline.onnx", "model.safetensors",
        "labels_mapping.json", "result.json", "evaluation/predictions.csv", "dataset/statistics.json",
        "dataset/sampler_draws.csv", "training_history/accuracy.png", "epoch_000/confusion_matrix.png",
        "epoch_000/sample_predictions.png", "model_summary.txt",
    ):  # fmt: skip
        assert (run / name).is_file(), name
    assert not (run / "checkpoints").exists()
    (row,) = read_csv(run / "metrics.csv")
    info = json.loads((run / "model_info.json").read_text())
    assert info["training_info"]["best_metric"]["value"] == pytest.approx(float(row["val/balanced_accuracy"]))
    for name in ("model.onnx", "pipeline.onnx", "model.safetensors"):
        assert info["files"][name]["parity"]["top1_agreement"] == 1.0

    evaluated = call("evaluate", f"run={run}", "output=again").result
    assert evaluated.metrics == pytest.approx(json.loads((run / "result.json").read_text())["metrics"], abs=1e-5)
    assert evaluated.metrics["balanced_accuracy"] == 1.0
    call("predict", f"run={run}", f"source={split_folder / 'test/red'}", "output=answers.csv")
    assert {answer["label"] for answer in read_csv(Path("answers.csv"))} == {"red"}
    call("export", f"run={run}", "format=[onnx,torchscript]", "output=shipped")
    assert (Path("shipped/model.torchscript")).is_file()
    with pytest.raises(UserError, match="whole grey levels"):
        call("export", f"run={run}", "quantization=int8", "output=shipped")
    with pytest.raises(UserError, match="finished"):
        call("train", f"resume={run}")


@pytest.mark.parametrize(
    "word",
    [
        "optimizer=sgd", "optimizer.lr=0.1", "scheduler=constant", "loss=focal", "trainer.max_epochs=3",
        "callbacks.ema.decay=0.9", "callbacks.early_stopping.patience=3", "callbacks=[onnx_export,ema]",
        "transforms.hflip=0.5",
    ],
)  # fmt: skip
def test_a_typed_setting_without_effect_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"has no effect with model=svm") as caught:
        compose(entry("verb", "train"), ["data=digits", "model=svm", word])
    assert caught.value.remedy == "leave it out"


@pytest.mark.parametrize(
    "word",
    [
        "model.C=3", "transforms.policy=letterbox", "transforms.max_value=4095", "transforms=affine",
        "callbacks=[onnx_export,history]", "callbacks.ema=null", "seed=3",
    ],
)  # fmt: skip
def test_a_typed_setting_with_effect_is_taken(word: str) -> None:
    compose(entry("verb", "train"), ["data=digits", "model=svm", word])


def test_without_a_file_to_keep_it_a_model_is_not_fitted(
    split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    with pytest.raises(UserError, match="onnx_export is switched off"):
        train_here([f"data.root={split_folder}", *SMALL, "model=svm", "callbacks=[history]"])


def test_pictures_smaller_than_a_block_are_refused(split_folder: Path, train_here: Callable[[list[str]], Path]) -> None:
    with pytest.raises(UserError, match="a block of the gradient histograms is 16 pixels wide"):
        train_here([f"data.root={split_folder}", "data.image_size=8", "model=svm"])


@pytest.mark.nightly
def test_features_are_found_on_disk_by_the_next_run(
    split_folder: Path, train_here: Callable[[list[str]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "classifier_training")
    words = [f"data.root={split_folder}", *SMALL, "model.color_bins=11", "callbacks=[onnx_export]"]
    train_here([*words, "model=svm"])
    assert "train, 18 of 18 images, 616 values each, 0 found on disk" in caplog.text
    train_here([*words, "model=random_forest", "model.num_trees=5"])
    assert "train, 18 of 18 images, 616 values each, 18 found on disk" in caplog.text
