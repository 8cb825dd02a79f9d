"""Exported files of trained runs in the runtimes of docs/deployment.md, compared with PyTorch on golden images."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from tests import quick
from tests.clients import golden_outputs
from tests.clients.golden_outputs import NUM_ROUNDS

from classifier_training.core.preprocess import Preprocessing
from classifier_training.core.run_dir import RunDir
from classifier_training.core.types import softmax
from classifier_training.export.bundle import TEMPERATURE_KEY
from classifier_training.export.pipeline import preprocessing_part

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from selenium.webdriver import Chrome
    from tests.clients.conftest import Client
    from tests.clients.golden_outputs import Outputs

TOLERANCE = 1e-4
"""Largest difference of a probability from PyTorch's."""

SIZES = ((300, 420), (30, 23), (64, 64), (90, 17), (17, 90), (211, 150), (40, 160))
"""Heights and widths of the images: larger and smaller than what the networks see, and one that is the same."""

NETWORKS = {
    "test_vit": ("model=timm", "model.name=test_vit", "model.pretrained=false", "data.image_size=160"),
    "tf_efficientnet_lite0": ("model=tf_efficientnet_lite0", "data.image_size=64"),
    "resnet18": ("model=resnet18", "model.pretrained=false", "data.image_size=64"),
}
"""A network with attention, the default network with its trained weights, and a plain convolutional one."""

BY_DAY = {"test_vit"}
"""Networks that are not left to the night."""

OLD_RUNTIMES = ("onnxruntime==1.20.*", "opencv-python-headless==4.*")
INSTALL_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Trained:
    """A trained run and what its golden images must give.

    Args:
        network: its name.
        run_dir: with fitted.onnx beside the exported files; see golden_outputs.py.
        probabilities: PyTorch's, float32 [N, K].
        pixels: those that Python gives to the network, uint8 [N, 3, H, W].
        temperature: that the logits of model.onnx are divided by.
    """

    network: str
    run_dir: RunDir
    probabilities: NDArray[np.float32]
    pixels: NDArray[np.uint8]
    temperature: float


def write_photographs(root: Path) -> None:
    """Write a folder of images with three classes: pieces of two photographs, and noise."""
    china, flower = load_sample_images().images
    noise = np.random.default_rng(0).integers(0, 256, china.shape, dtype=np.uint8)
    draw = np.random.default_rng(1)
    for split, count in (("train", 12), ("val", 11), ("test", 3)):
        for shift, (label, source) in enumerate((("china", china), ("flower", flower), ("noise", noise))):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = SIZES[(number + shift) % len(SIZES)]
                top, left = draw.integers(0, source.shape[0] - height), draw.integers(0, source.shape[1] - width)
                piece = source[top : top + height, left : left + width]
                Image.fromarray(piece).save(folder / f"{number:02d}.png")


def train(folder: Path, words: tuple[str, ...]) -> RunDir:
    """Run `train` for one epoch in this process."""
    from classifier_training import cli  # noqa: F401 - fills the register
    from classifier_training.conf.compose import compose
    from classifier_training.core.register import entry

    write_photographs(folder / "images")
    short = ("data.batch_size=6", "data.num_workers=0", "trainer.max_epochs=1", "trainer.accelerator=cpu")
    verb = entry("verb", "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        quick.leave_out(patch.setattr, exporter=False)
        result = verb.run(compose(verb, [f"data.root={folder / 'images'}", *short, *words]))
    return RunDir(folder / result.run_dir.path)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in BY_DAY else pytest.mark.nightly) for name in NETWORKS],
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run_dir = train(tmp_path_factory.mktemp("trained"), NETWORKS[request.param])
    info = json.loads(run_dir.model_info.read_text())
    golden = json.loads((run_dir.golden / "golden.json").read_text())["images"]
    preprocessing = Preprocessing.from_dict(info["preprocessing"])
    (run_dir.path / "fitted.onnx").write_bytes(preprocessing_part(run_dir.pipeline, preprocessing.size))
    pixels = [preprocessing.pixels(Image.open(run_dir.golden / item["image"])) for item in golden]
    metadata = {item.key: item.value for item in onnx.load(run_dir.onnx).metadata_props}
    return Trained(
        network=request.param,
        run_dir=run_dir,
        probabilities=np.array([item["probabilities"] for item in golden], dtype=np.float32),
        pixels=np.stack(pixels).transpose(0, 3, 1, 2),
        temperature=float(metadata[TEMPERATURE_KEY]),
    )


def check_model(found: Outputs, trained: Trained) -> None:
    for name in ("logits", "batch_logits"):
        probabilities = softmax(np.asarray(found[name], dtype=np.float32) / np.float32(trained.temperature))
        np.testing.assert_allclose(probabilities, trained.probabilities, rtol=0, atol=TOLERANCE)


def check_pipeline(found: Outputs, trained: Trained, *, pixel_tolerance: int) -> None:
    assert len(found["probabilities"]) == NUM_ROUNDS
    for probabilities in found["probabilities"]:
        np.testing.assert_allclose(probabilities, trained.probabilities, rtol=0, atol=TOLERANCE)
    for pixels in np.reshape(found["pixels"], (NUM_ROUNDS, *trained.pixels.shape)):
        assert np.abs(pixels - trained.pixels.astype(np.float32)).max() <= pixel_tolerance


def test_the_golden_images_tell_a_wrong_file_apart(trained: Trained) -> None:
    golden = json.loads((trained.run_dir.golden / "golden.json").read_text())["images"]
    assert len({(item["height"], item["width"]) for item in golden}) == len(golden) == 4
    assert np.ptp(trained.probabilities, axis=0).max() > 100 * TOLERANCE
    assert {item.name for item in onnx.load(trained.run_dir.onnx).graph.output} == {"logits", "features", "novelty"}


def test_onnxruntime(trained: Trained) -> None:
    found = golden_outputs.onnxruntime_outputs(trained.run_dir.path)
    check_model(found, trained)
    check_pipeline(found, trained, pixel_tolerance=0)


def test_openvino(trained: Trained) -> None:
    pytest.importorskip("openvino")
    found = golden_outputs.openvino_outputs(trained.run_dir.path)
    check_model(found, trained)
    check_pipeline(found, trained, pixel_tolerance=1)


def test_opencv(trained: Trained) -> None:
    cv2 = pytest.importorskip("cv2")
    if trained.network == "test_vit" and cv2.__version__.startswith("4."):
        with pytest.raises(cv2.error):
            golden_outputs.opencv_outputs(trained.run_dir.path)
        return
    check_model(golden_outputs.opencv_outputs(trained.run_dir.path), trained)


def test_opencv_cannot_run_a_pipeline(trained: Trained) -> None:
    cv2 = pytest.importorskip("cv2")
    with pytest.raises(cv2.error):
        golden_outputs.opencv_pipeline_outputs(trained.run_dir.path)


@pytest.fixture(scope="session")
def old_python(request: pytest.FixtureRequest) -> Path:
    """A Python with older runtimes, in a folder that pytest keeps."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    folder = Path(request.config.cache.mkdir("old_runtimes"))
    python = folder / "bin" / "python"
    for words in (
        ["venv", "--quiet", "--allow-existing", "--python", sys.executable, folder],
        ["pip", "install", "--quiet", "--python", python, "numpy", *OLD_RUNTIMES],
    ):
        try:
            subprocess.run(
                [uv, *map(str, words)],
                cwd=folder, capture_output=True, text=True, check=True, timeout=INSTALL_TIMEOUT_SECONDS,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip().splitlines()[-1]
            pytest.skip(f"older runtimes cannot be installed: {reason}")
        except subprocess.TimeoutExpired as error:
            pytest.skip(f"older runtimes cannot be installed: {error}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "opencv", "opencv_pipeline"])
def test_an_older_version(runtime: str, trained: Trained, old_python: Path, tmp_path: Path) -> None:
    words = [old_python, golden_outputs.__file__, runtime, trained.run_dir.path, tmp_path / "outputs.npz"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if runtime == "opencv_pipeline":
        assert "cv2.error" in done.stderr
        return
    if runtime == "opencv" and trained.network == "test_vit":
        # OpenCV 4 cannot read a class token that is repeated for a batch of any size.
        assert "Concat" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    found = dict(np.load(tmp_path / "outputs.npz"))
    wanted = next(word for word in OLD_RUNTIMES if word.startswith(runtime)).partition("==")[2].removesuffix("*")
    assert str(found["version"]).startswith(wanted)
    check_model(found, trained)
    if runtime == "onnxruntime":
        check_pipeline(found, trained, pixel_tolerance=0)


@pytest.mark.browser
@pytest.mark.parametrize("provider", ["wasm", pytest.param("webgpu", marks=pytest.mark.nightly)])
def test_onnxruntime_web(
    provider: str,
    trained: Trained,
    browser: Chrome,
    javascript_client: Client,
    serve: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    (tmp_path / "page.html").write_text("<!doctype html><title>runtimes</title>")
    shutil.copy(Path(golden_outputs.__file__).with_suffix(".js"), tmp_path)
    shutil.copy(javascript_client.folder / "classifier.js", tmp_path)
    (tmp_path / "dist").symlink_to(javascript_client.folder / "node_modules" / "onnxruntime-web" / "dist")
    (tmp_path / "run").symlink_to(trained.run_dir.path)
    browser.get(f"{serve(tmp_path)}/page.html")
    # A software adapter compiles hundreds of shaders.
    browser.set_script_timeout(600)
    found: dict[str, Any] = browser.execute_async_script(
        """
        const [provider, done] = arguments;
        import("./golden_outputs.js")
          .then(({ goldenOutputs }) => goldenOutputs(provider))
          .then(done, (error) => done({ error: String(error) }));
        """,
        provider,
    )
    assert "error" not in found, found["error"]
    check_model(found, trained)
    check_pipeline(found, trained, pixel_tolerance=1)
    on_gpu = [count > 0 for count in found["dispatches"].values()]
    assert on_gpu == [provider == "webgpu"] * 2
