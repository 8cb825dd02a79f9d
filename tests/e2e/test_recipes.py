"""Recipes and what they switch on, typed at the real command line and trained for an epoch or two."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tests.conftest import SETTINGS, SMALL
from tests.server import Ended

from classifier_training.core.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_runs")

LITTLE = (*SMALL, "callbacks=[checkpoint,ema]")


def test_a_recipe_is_printed_and_kept(command: Callable[..., Ended], split_folder: Path, tmp_path: Path) -> None:
    done = command("train", f"data.root={split_folder}", *LITTLE)
    assert done.code == 0, done.err
    assert "recipe: scratch, for a network that starts from random weights" in done.err
    assert "hint: for fewer than 1,000 training images there is recipe=tiny, which takes longer" in done.err
    assert "imbalance: classes 2.0:1, logits adjusted" in done.err
    (config,) = tmp_path.glob("outputs/*/*/config.yaml")
    assert yaml.safe_load(config.read_text())["recipe"] == "scratch"
    assert "recipe: scratch, for a network" in (config.parent / "train.log").read_text()


@pytest.mark.parametrize(
    "recipe",
    ["tiny", "jersey", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("longtail", "slides", "finetune"))],
)
def test_every_recipe_trains(
    recipe: str, split_folder: Path, train_here: Callable[[list[str]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    run = train_here([f"data.root={split_folder}", f"recipe={recipe}", *LITTLE])
    assert yaml.safe_load((run / "config.yaml").read_text())["recipe"] == recipe
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_slides_train_mobilenetv4_from_the_cache_of_the_hub(
    split_folder: Path,
    tmp_path: Path,
    train_here: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import timm
    from safetensors.torch import save_file

    name = "mobilenetv4_conv_medium.e500_r256_in1k"
    repository, commit = tmp_path / f"hub/models--timm--{name}", "0" * 40
    for path in (repository / "refs", repository / "snapshots" / commit):
        path.mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    save_file(timm.create_model(name).state_dict(), repository / "snapshots" / commit / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    words = [f"data.root={split_folder}", "recipe=slides", "data.image_size=32", "trainer.max_epochs=1"]
    caplog.set_level("INFO")
    train_here([*words, "callbacks.onnx_export=null", "trainer.accelerator=cpu"])
    log = caplog.text
    assert f"weights: {name} (Hugging Face Hub, timm/{name}" in log
    assert "imbalance: classes 2.0:1, loss weights 0.75 (blue) to 1.50 (red)" in log
    assert "val/acc_top1" in log


def test_what_slides_lacks_without_a_connection_is_had_as_the_error_says(
    command: Callable[..., Ended], split_folder: Path
) -> None:
    words = ["train", f"data.root={split_folder}", "recipe=slides", *SETTINGS, "callbacks=[checkpoint]"]
    done = command(*words)
    assert done.code == 2
    for remedy in ("`hf download timm/mobilenetv4_conv_medium.e500_r256_in1k`", "model.weights=", "model=auto"):
        assert remedy in done.err
    assert not Path("outputs").exists()
    other = command(*words, "model=auto")
    assert other.code == 0, other.err
    assert "recipe: slides" in other.err
    assert "loss weights 0.75 (blue) to 1.50 (red)" in other.err


def test_jersey_trains_resnet18_on_jsonl_from_the_cache_of_torch(
    jsonl_folder: Path,
    tmp_path: Path,
    train_here: Callable[[list[str]], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torchvision

    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = [f"data.root={jsonl_folder}", "recipe=jersey", *SETTINGS, "callbacks=[checkpoint,ema]"]
    caplog.set_level("INFO")
    train_here(words)
    log = caplog.text
    assert "weights: resnet18.IMAGENET1K_V1" in log
    assert "samples drawn equally often from every class" in log


def test_the_fast_recipe_trains_on_growing_pictures(
    split_folder: Path, train_here: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifier_training.training.module import ClassifierModule

    seen = []
    original = ClassifierModule.forward

    def spy(module: ClassifierModule, images: torch.Tensor) -> torch.Tensor:
        seen.append((module.training, images.shape[-1]))
        return original(module, images)

    monkeypatch.setattr(ClassifierModule, "forward", spy)
    words = [f"data.root={split_folder}", "recipe=fast", *LITTLE, "data.image_size=64", "trainer.max_epochs=2"]
    train_here(words)
    assert [size for trains, size in seen if trains] == [32] * 5 + [64] * 5
    assert {size for trains, size in seen if not trains} == {64}
    with pytest.raises(UserError, match=r"transforms\.start_scale=0\.5 has no effect with data\.image_size=32"):
        train_here([*words, "data.image_size=32"])


def test_accuracy_of_mixed_pictures_is_the_share_of_what_was_recognized(
    split_folder: Path, train_here: Callable[[list[str]], Path]
) -> None:
    words = [f"data.root={split_folder}", *LITTLE, "recipe=none", "transforms.mixup=1", "loss=focal"]
    run = train_here([*words, "imbalance=weights"])
    (row,) = csv.DictReader((run / "metrics.csv").open(encoding="utf-8"))
    assert 0 < float(row["train/acc_top1"]) < 1
    assert float(row["train/loss"]) > 0


def test_a_run_of_mixed_and_growing_pictures_resumes_bit_for_bit(
    split_folder: Path, tmp_path: Path, train_here: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifier_training.training.module import ClassifierModule

    class PowerCutError(Exception):
        """Ends a run where no code of ours expects it."""

    start = ClassifierModule.on_train_epoch_start

    def cut(module: ClassifierModule) -> None:
        if module.current_epoch == 1:
            raise PowerCutError
        start(module)

    words = [
        f"data.root={split_folder}", *LITTLE, "data.image_size=64", "callbacks.checkpoint.every_seconds=0",
        "transforms.start_scale=0.5", "transforms.mixup=0.4", "transforms.cutmix=1", "transforms.trivial_augment=true",
        "transforms.noise=0.5", "transforms.erase=0.5", "imbalance=logit_adjust", "trainer.max_epochs=3",
    ]  # fmt: skip
    whole = train_here(words)
    with monkeypatch.context() as patch, pytest.raises(PowerCutError):
        patch.setattr(ClassifierModule, "on_train_epoch_start", cut)
        train_here([*words, f"output={tmp_path}/cut"])
    (config,) = (tmp_path / "cut").glob("*/*/config.yaml")
    assert torch.load(config.parent / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 0
    resumed = train_here([f"resume={config.parent}"])
    states = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["current_model_state"] for run in (whole, resumed)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
