"""data.image_size=auto, the default: the size follows from the images, and all that comes later uses the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.conftest import NETWORK, draw_picture
from tests.server import Ended

from classifier_training.conf.compose import compose
from classifier_training.core.register import entry
from classifier_training.data.image_settings import TRAINED_FACTOR
from classifier_training.models.meta import on_meta
from classifier_training.workflows.training.network import suit_images

pytestmark = pytest.mark.usefixtures("quick_runs")

Train = Callable[[Sequence[str]], Path]
SHORT = ("data.batch_size=8", "trainer.max_epochs=1", "trainer.accelerator=cpu")
SIDE = 32
CHOSEN = SIDE * TRAINED_FACTOR


@pytest.fixture
def small_images(split_folder: Path) -> Path:
    """The folder of three classes, with images of 32 px."""
    resize(split_folder, SIDE)
    return split_folder


def resize(folder: Path, side: int) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        colour = {"blue": (30, 60, 200), "green": (40, 160, 60), "red": (200, 40, 40)}[path.parent.name]
        draw_picture(path, colour, seed=number + 1000 * side, size=(side + 3, side))


def perform(verb: str, *words: str) -> object:
    known = entry("verb", verb)
    return known.run(compose(known, words))


def input_size(run: Path) -> int:
    info = json.loads((run / "model_info.json").read_text())
    return int(info["input_shape"][-1])


def test_small_images_are_not_blown_up_and_the_size_stays_with_the_run(
    small_images: Path, train_here: Train, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "classifier_training")
    run = train_here([f"data.root={small_images}", *SHORT, "callbacks=[checkpoint,onnx_export,model_info]"])
    log = (run / "train.log").read_text()
    assert log.count("image size:") == 1
    assert f"image size: {CHOSEN} px (images are {SIDE} px at their short side; the network's own 224 px" in log
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["image_size"] == "auto"
    assert json.loads((run / "decisions.json").read_text())["image_size"] == CHOSEN
    assert input_size(run) == CHOSEN

    # The images would ask for another size now; the run keeps its own.
    resize(small_images, 64)
    resumed = train_here([f"resume={run}", "trainer.max_epochs=2"])
    assert resumed == run
    assert f"image size: {CHOSEN} px (as the run began)" in (run / "train.log").read_text()
    assert json.loads((run / "decisions.json").read_text())["image_size"] == CHOSEN
    assert input_size(run) == CHOSEN

    perform("predict", f"run={run}", f"source={small_images / 'test'}", "output=answers.json")
    assert len(json.loads(Path("answers.json").read_text())) == 9
    perform("export", f"run={run}", "format=torchscript")
    files = json.loads((run / "model_info.json").read_text())["files"]
    assert any(file["format"] == "torchscript" for file in files.values())
    perform("evaluate", f"run={run}")

    child = train_here([f"data.root={small_images}", f"init_from={run}", *SHORT, "callbacks=[checkpoint,onnx_export]"])
    assert input_size(child) == CHOSEN
    assert f"image size: {CHOSEN} px (that of {run}" in (child / "train.log").read_text()


@pytest.mark.parametrize(
    ("words", "side"),
    [
        ([*NETWORK, "data.image_size=null"], 32),
        ([*NETWORK, "data.image_size=48"], 48),
        pytest.param(["model=cnn_v1"], 32, marks=pytest.mark.nightly),
        # Progressive resizing begins with a smaller size, of at least 32 px.
        (["model=cnn_v1", "transforms=progressive_resizing", "trainer.max_epochs=2"], 64),
        # A single image in a batch leaves a batch norm one value at 32 px.
        pytest.param(["model=resnet18", "model.pretrained=false", "data.batch_size=1"], 64, marks=pytest.mark.nightly),
        pytest.param(["model=random_forest", "model.num_trees=4"], 64, marks=pytest.mark.nightly),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_random_weights_take_the_size_of_the_images(
    words: list[str], side: int, small_images: Path, train_here: Train
) -> None:
    is_forest = words[0] == "model=random_forest"
    short = ["callbacks=[onnx_export]"] if is_forest else [*SHORT, "callbacks=[checkpoint,onnx_export]"]
    run = train_here([f"data.root={small_images}", *short, *words])
    assert input_size(run) == side
    if not is_forest:
        decided = json.loads((run / "decisions.json").read_text())["image_size"]
        assert decided == (None if "data.image_size=48" in words else side)


@pytest.mark.parametrize("name", ["vit_b_32", "inception_v3"])
def test_a_network_that_is_not_made_for_small_images_keeps_its_own_size(name: str) -> None:
    words = ["data.root=/x", "model=torchvision", f"model.name={name}", "model.pretrained=false"]
    arguments = compose(entry("verb", "train"), words)
    built = on_meta(lambda: arguments["model"](3))
    chosen = suit_images(
        arguments["data"], arguments["transforms"], built, np.full((5, 2), SIDE), max_epochs=3, is_trained=False
    )
    assert chosen.side == {"vit_b_32": 224, "inception_v3": 96}[name]


def test_a_run_from_before_the_rule_keeps_the_networks_own_size(small_images: Path, train_here: Train) -> None:
    small = ["callbacks=[checkpoint,onnx_export]", "data.image_size=160", *NETWORK, *SHORT]
    run = train_here([f"data.root={small_images}", *small])
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["image_size"] = None
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    decisions = json.loads((run / "decisions.json").read_text())
    decisions.pop("image_size")
    (run / "decisions.json").write_text(json.dumps(decisions))
    train_here([f"resume={run}", "trainer.max_epochs=2"])
    assert input_size(run) == 160


@pytest.mark.parametrize(
    "model", [["model=cnn_v1"], pytest.param(["model=tf_efficientnet_lite0"], marks=pytest.mark.nightly)]
)
def test_what_is_prepared_is_what_training_reads(
    model: list[str], small_images: Path, command: Callable[..., Ended], tmp_path: Path
) -> None:
    env = {"CLASSIFIER_TRAINING_CACHE": str(tmp_path / "cache")}
    done = command("prepare", f"data.root={small_images}", *model, env=env)
    assert done.code == 0, done.err
    side = SIDE if model == ["model=cnn_v1"] else CHOSEN
    assert f"image size: {side} px (images are {SIDE} px" in done.err
    words = [f"data.root={small_images}", *model, *SHORT, "callbacks=[checkpoint]", "data.store=on"]
    done = command("train", *words, env=env)
    assert done.code == 0, done.err
    (log,) = tmp_path.glob("outputs/*/*/train.log")
    assert "store: 18 of 18 images (train)" in log.read_text()
