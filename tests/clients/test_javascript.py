"""The JavaScript client in Node, with onnxruntime-web's WebAssembly, against Python."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from tests.bundles import PREPROCESSING

from classifier_training.core.images import to_rgb
from classifier_training.export.calibrate import set_metadata
from classifier_training.export.calibration import TEMPERATURE_KEY
from classifier_training.export.pipeline import with_pixels, write_pipeline

if TYPE_CHECKING:
    from classifier_training.core.run_dir import RunDir

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "clients" / "js"

FITTED_PIXELS = """
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web/wasm";
ort.env.wasm.numThreads = 1;
const [folder, ...shapes] = process.argv.slice(2);
const session = await ort.InferenceSession.create(readFileSync(`${folder}/model.onnx`));
for (const [number, shape] of shapes.entries()) {
  const bytes = new Uint8Array(readFileSync(`${folder}/${number}.rgb`));
  const image = new ort.Tensor("uint8", bytes, shape.split("x").map(Number));
  const { data } = (await session.run({ image })).pixels;
  writeFileSync(`${folder}/${number}.f32`, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}
"""

TO_RGB = """
import { readFileSync, writeFileSync } from "node:fs";
import { toRgb } from "./classifier.js";
const [rgba, height, width, out] = process.argv.slice(2);
writeFileSync(out, toRgb({ data: readFileSync(rgba), height: Number(height), width: Number(width) }));
"""


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's folder with its packages: the checkout's own if it has them, else a copy that npm fills."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if (SOURCE / "node_modules").is_dir():
        return SOURCE
    folder = tmp_path_factory.mktemp("client") / "js"
    shutil.copytree(SOURCE, folder)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True)
    return folder


def check(client: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", "check_golden.js", folder], cwd=client, capture_output=True, text=True, check=False)


def run_module(client: Path, module: str, *words: object) -> None:
    command = ["node", "--input-type=module", "-", *map(str, words)]
    subprocess.run(command, input=module, cwd=client, text=True, check=True)


def test_it_answers_the_golden_pictures_as_python_does(client: Path, run_dir_of_every_kind: RunDir) -> None:
    done = check(client, run_dir_of_every_kind.path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "4 of 4 pictures agree with Python"


def test_it_sees_the_pixels_that_python_sees(client: Path, run_dir_of_every_kind: RunDir, tmp_path: Path) -> None:
    run_dir = run_dir_of_every_kind
    info = json.loads(run_dir.model_info.read_text())
    preprocessing = PREPROCESSING.from_dict(info["preprocessing"])
    (tmp_path / "model.onnx").write_bytes(with_pixels(run_dir.pipeline, preprocessing.size))
    china, flower = load_sample_images().images
    pictures = [china, flower[:, :33], flower[:5, :7], china[:300, :2], china[:60, :50]]
    for number, picture in enumerate(pictures):
        (tmp_path / f"{number}.rgb").write_bytes(picture.tobytes())
    run_module(client, FITTED_PIXELS, tmp_path, *("x".join(map(str, picture.shape)) for picture in pictures))
    for number, picture in enumerate(pictures):
        found = np.fromfile(tmp_path / f"{number}.f32", dtype="<f4").reshape(3, *preprocessing.size)
        expected = preprocessing.pixels(Image.fromarray(picture)).astype(np.float32)
        assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 1


def test_transparent_pixels_lie_over_white_as_in_python(client: Path, tmp_path: Path) -> None:
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    rgba = np.stack([level, level[::-1, ::-1], np.full_like(level, 7), alpha], axis=-1)
    (tmp_path / "rgba").write_bytes(rgba.tobytes())
    run_module(client, TO_RGB, tmp_path / "rgba", 256, 256, tmp_path / "out")
    found = np.fromfile(tmp_path / "out", dtype=np.uint8).reshape(256, 256, 3)
    assert (found == np.asarray(to_rgb(Image.fromarray(rgba)))).all()


def test_calibrated_answers_are_those_of_python(client: Path, calibrated_run_dir: RunDir) -> None:
    done = check(client, calibrated_run_dir.path)
    assert done.returncode == 0, done.stdout + done.stderr
    # The pictures tell a client apart that leaves the temperature out.
    model = onnx.load(calibrated_run_dir.pipeline)
    set_metadata(model, {TEMPERATURE_KEY: "0.7"})
    onnx.save(model, calibrated_run_dir.pipeline)
    assert check(client, calibrated_run_dir.path).returncode == 1
    set_metadata(model, {TEMPERATURE_KEY: "0"})
    onnx.save(model, calibrated_run_dir.pipeline)
    done = check(client, calibrated_run_dir.path)
    assert done.returncode == 2
    assert "temperature is no number above 0" in done.stderr


def test_a_difference_is_told_by_picture_and_exit_code(client: Path, changed_run_dir: RunDir) -> None:
    done = check(client, changed_run_dir.path)
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:4]] == [
        "ok    0.png", "WRONG 1.png", "ok    2.png", "ok    3.png",
    ]  # fmt: skip


def test_a_pipeline_that_resizes_otherwise_is_told(client: Path, changed_run_dir: RunDir) -> None:
    letterboxed = dataclasses.replace(PREPROCESSING, policy="letterbox")
    write_pipeline(changed_run_dir.onnx, letterboxed, changed_run_dir.pipeline)
    done = check(client, changed_run_dir.path)
    assert done.returncode == 1
    assert done.stdout.count("WRONG") == 4


def test_a_folder_that_is_no_run_and_a_model_that_is_no_pipeline(
    client: Path, changed_run_dir: RunDir, tmp_path: Path
) -> None:
    done = check(client, tmp_path)
    assert done.returncode == 2
    assert "golden.json" in done.stderr
    content = changed_run_dir.pipeline.read_bytes()
    for wrong, words in (
        (changed_run_dir.onnx.read_bytes(), "it is not a pipeline.onnx"),
        (content[: len(content) // 2], "cut short"),
    ):
        changed_run_dir.pipeline.write_bytes(wrong)
        done = check(client, changed_run_dir.path)
        assert done.returncode == 2
        assert words in done.stderr
