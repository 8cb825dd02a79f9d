"""A run made smaller by pruning, as a user types it, and what a pruned run can do afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from tests.conftest import SETTINGS, make_class_folders
from tests.e2e.test_resume import exact, timeless
from tests.server import Ended

import classifier_training as ct
from classifier_training import cli
from classifier_training.core.run_dir import RunDir
from classifier_training.workflows.evaluating.run_model import load_trained

Command = Callable[..., Ended]

QUICK = (*SETTINGS, "callbacks=[checkpoint,onnx_export]", "trainer.precision=32", "transforms=none")


pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        make_class_folders(root / split, dict.fromkeys(("blue", "green", "red"), count))
    return root


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a whole network, which no test changes."""
    words = [f"data.root={images}", "model=student", *QUICK, f"output={tmp_path_factory.mktemp('runs')}"]
    return Path(cli.perform("train", words).run_dir.path)


@pytest.fixture(scope="module")
def pruned(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [f"init_from={whole}", "pruning=channels", *QUICK, f"output={tmp_path_factory.mktemp('runs')}"]
    return Path(cli.perform("train", words).run_dir.path)


def num_weights(run: Path) -> int:
    return sum(tensor.numel() for tensor in load_trained(RunDir(run))[0].parameters())


def test_a_pruned_run_is_like_any_other(whole: Path, pruned: Path, images: Path, command: Command) -> None:
    assert (pruned / "splits.csv").read_text() == (whole / "splits.csv").read_text()
    assert num_weights(pruned) < 0.7 * num_weights(whole)
    info = json.loads((pruned / "model_info.json").read_text())
    assert info["model_architecture"] == "student_pruned"
    assert info["training_info"]["config"]["pruning"]["keep"] == 0.5
    assert all(info["files"][name]["parity"]["passed"] for name in ("model.onnx", "model.safetensors", "pipeline.onnx"))
    (logits,) = onnx.load(pruned / "model.onnx").graph.output[:1]
    assert logits.type.tensor_type.shape.dim[1].dim_value == 3
    assert not (pruned / "config.json").exists(), "timm cannot build it"
    image = images / "test/red"
    assert ct.load_run(pruned).predict(next(iter(image.iterdir()))).label in ("blue", "green", "red")
    evaluated = command("evaluate", f"run={pruned}/checkpoints/best.ckpt")
    assert evaluated.code == 0, evaluated.err
    exported = command("export", f"run={pruned}", "format=[onnx,torchscript]", "quantization=int8", "force=true")
    assert exported.code == 0, exported.err
    assert (pruned / "model_int8.onnx").stat().st_size < (pruned / "model.onnx").stat().st_size
    for name in ("model.onnx", "model_int8.onnx"):
        done = command("predict", str(image), f"run={pruned}/{name}", "output=predictions.json")
        assert done.code == 0, done.err


def test_a_pruned_run_is_resumed_to_the_letter(whole: Path, train_here: Callable[[list[str]], Path]) -> None:
    words = [
        f"init_from={whole}", "pruning=channels", *QUICK, "callbacks=[checkpoint,ema]", "scheduler=constant",
        "callbacks.checkpoint.every_seconds=0",
    ]  # fmt: skip
    uncut = train_here([*words, "trainer.max_epochs=3"])
    cut = train_here([*words, "trainer.max_epochs=2"])
    assert train_here([f"resume={cut}", "trainer.max_epochs=3"]) == cut
    first, second = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (uncut, cut))
    kept = [state["callbacks"]["EpochRecorder"].pop("rows") for state in (first, second)]
    assert timeless(kept[0]) == timeless(kept[1])
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert exact(first[part]) == exact(second[part]), part


def test_training_goes_on_from_a_pruned_run(
    pruned: Path, images: Path, tmp_path: Path, train_here: Callable[[list[str]], Path]
) -> None:
    same = train_here([f"init_from={pruned}", *QUICK])
    assert num_weights(same) == num_weights(pruned)
    again = train_here([f"init_from={pruned}", "pruning=channels", "pruning.keep=0.7", *QUICK])
    assert num_weights(again) < num_weights(pruned)
    fewer = make_class_folders(tmp_path / "fewer", dict.fromkeys(("blue", "red"), 6))
    other = train_here([f"init_from={same}", f"data.root={fewer}", "model=student", *QUICK])
    network, info = load_trained(RunDir(other))
    assert info.class_names == ("blue", "red")
    assert info.architecture == "student_pruned"
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_distill_compares_a_pruned_network_with_and_without_its_teacher(
    whole: Path, command: Command, tmp_path: Path
) -> None:
    done = command("distill", f"teacher={whole}", "pruning=channels", "pruning.keep=0.6", *QUICK)
    assert done.code == 0, done.err
    (found,) = (json.loads(path.read_text()) for path in (tmp_path / "outputs").rglob("distillation.json"))
    assert found["student"]["name"] == "student_pruned"
    assert found["student"]["size_mb"] < found["teacher"]["size_mb"]
    runs = [Path(run["run"]) for run in found["runs"]]
    assert len(runs) == 2
    assert num_weights(tmp_path / runs[0]) == num_weights(tmp_path / runs[1]) < num_weights(whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=student"], "pruning=channels: student starts from random weights"),
        (["model=svm"], "pruning"),
        (["model=student", "pruning.keep=1"], "pruning.keep=1"),
    ],
)
def test_what_cannot_be_pruned_is_refused(words: list[str], said: str, images: Path, command: Command) -> None:
    done = command("train", f"data.root={images}", "pruning=channels", *words)
    assert done.code == 2
    assert said in done.err
    assert not list(Path("outputs").rglob("config.yaml"))
